//! The HTTP seam: heads, bodies and connections as the data path knows them. hyper is behind it and nowhere else, and
//! an HTTP/1 connection of our own toward downstreams.

pub(crate) mod body;
pub(crate) mod copy;
pub(crate) mod downstream;
pub(crate) mod h1;
pub(crate) mod head;
pub(crate) mod io;
pub(crate) mod upgrade;
pub(crate) mod upstream;
