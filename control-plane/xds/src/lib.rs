//! Weir's wire: protos, and both conversions between them and the model.
