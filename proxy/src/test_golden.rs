//! Golden files for tests.

use std::path::Path;

/// Compares `actual` with the file at `path` in this crate; `UPDATE_EXPECT=1` writes the file instead.
#[track_caller]
pub(crate) fn check(path: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, actual).expect("the golden file can be written");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "UPDATE_EXPECT=1 writes {}", path.display());
}
