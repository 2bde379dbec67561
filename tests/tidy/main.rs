//! Keeps the rules of the house: who may import whom, that `resume` is pure,
//! and that no file outgrows one head.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bites;
mod rules;
mod scan;

use std::{fs, path::Path};

/// Every .rs file below `dir`, as (path from the root, text), in order.
fn sources(dir: &str) -> Vec<(String, String)> {
    fn collect(dir: &Path, root: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, root, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                found.push((name.to_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let root = Path::new(&root);
    let mut found = Vec::new();
    collect(&root.join(dir), root, &mut found);
    found.sort();
    found
}

#[test]
fn the_house_is_tidy() {
    let mut files = sources("src");
    assert!(files.len() > 10, "the sources were not found");
    files.extend(sources("tests"));
    let broken = rules::check(&files);
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}
