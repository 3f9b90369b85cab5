//! A mesh for tests: control plane, sidecars and scripted apps on real sockets.
