//! What a request costs, side by side with real peers.
fn main() {}
