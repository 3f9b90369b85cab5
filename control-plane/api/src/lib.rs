//! Weir's resource types, their YAML and their validation.
