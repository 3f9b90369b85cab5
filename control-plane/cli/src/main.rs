//! The command line for mesh admins and people on call.
fn main() {}
