//! The form of objects: their names and the bytes of rows.

use super::format::Format;
use super::layout::Layout;

/// The names of objects and the bytes of rows.
#[derive(Clone, Debug)]
pub struct ObjectForm {
    /// The names of objects.
    pub layout: Layout,
    /// The format of a row.
    pub format: Format,
}
