//! A governed health-code query, from citizen to six services and back.
fn main() {}
