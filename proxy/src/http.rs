//! The HTTP seam: heads, bodies and connections as the data path knows them. hyper is behind it and nowhere else.

pub(crate) mod body;
pub(crate) mod copy;
pub(crate) mod downstream;
pub(crate) mod head;
pub(crate) mod io;
pub(crate) mod upstream;
