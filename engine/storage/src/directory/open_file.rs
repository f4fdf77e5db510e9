//! A file of a log, counted among those that are open.

use runtime::budget::Held;
use runtime::file::File;
use std::ops::Deref;
use std::rc::Rc;

/// A file of a log, counted among those that are open.
pub(crate) struct OpenFile {
    file: File,
    _place: Held,
}

impl OpenFile {
    pub(crate) fn new(file: File, place: Held) -> Rc<Self> {
        Rc::new(Self { file, _place: place })
    }
}

impl Deref for OpenFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}
