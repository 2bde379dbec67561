//! What is told besides the answer, on stderr.

use std::io::{self, Write};

pub(super) fn note(text: &str) {
    // Nobody reads it: then there is nobody to tell either.
    let _ = writeln!(io::stderr(), "{text}");
}
