//! The rules themselves.

use std::collections::BTreeSet;

use super::scan::{Named, Scan};

/// What a file may hold, in lines with code outside `#[cfg(test)]`: comments,
/// documentation and blank lines are free.
pub(crate) const CODE_LINES_MAX: usize = 400;
/// The same for its `#[cfg(test)]` part, and for a file of tests.
pub(crate) const TEST_LINES_MAX: usize = 500;

/// Which of our modules each may name, besides itself.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("proto", &["resume"]),
    ("resume", &[]),
    ("metrics", &["resume"]),
    ("upstream", &["resume", "proto", "metrics"]),
    ("store", &["resume", "proto", "metrics"]),
    (
        "session",
        &["resume", "proto", "upstream", "store", "metrics"],
    ),
    ("grpc", &["session", "resume", "proto", "metrics", "survey"]),
    ("survey", &["session", "resume", "upstream", "store"]),
    (
        "admin",
        &["survey", "session", "resume", "metrics", "logging", "grpc"],
    ),
    ("cli", &["resume", "proto"]),
    ("config", &["resume", "store", "cli"]),
    ("logging", &["config"]),
    ("app", EVERYTHING),
    ("lib", EVERYTHING),
    ("main", EVERYTHING),
];
const EVERYTHING: &[&str] = &["*"];

/// What the traits of `upstream` and `store` speak of, though a module of its
/// own holds it: `session` may name it.
const VOCABULARY: &[[&str; 2]] = &[
    ["upstream", "CatchUpPermit"],
    ["upstream", "EtcdStatus"],
    ["upstream", "EndpointStatus"],
    ["upstream", "EndpointFailure"],
    ["upstream", "FailureKind"],
];

/// Crates that one place alone names: (crate, where its files begin).
const ONLY_IN: &[(&str, &str)] = &[
    ("etcd_client", "src/upstream/"),
    ("sled", "src/store/sled"),
    ("rustls", "src/app/tls/"),
    ("x509_cert", "src/app/tls/"),
    ("prometheus_client", "src/metrics/"),
    ("procfs", "src/metrics/"),
];

/// What `resume` may not name, as the beginning of a path.
const IMPURE_PATHS: &[&str] = &[
    "tokio",
    "tokio_stream",
    "futures_util",
    "async_stream",
    "tonic",
    "fastrand",
    "rand",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];
/// What `resume` may not name anywhere in a path.
const IMPURE_WORDS: &[&str] = &[
    "Instant",
    "SystemTime",
    "UNIX_EPOCH",
    "async",
    "await",
    "dbg",
    "eprint",
    "eprintln",
    "print",
    "println",
];

/// Checks all files, given as (path from the root, text). Returns what is
/// broken, each as `file:line: what`.
pub(crate) fn check(files: &[(String, String)]) -> Vec<String> {
    let mut broken = Vec::new();
    let test_modules = test_modules(files);
    let implementations = implementations(files);
    for (file, text) in files {
        let module = module_of(file);
        let is_test = file.starts_with("tests/") || in_test_module(&module, &test_modules);
        let scan = match Scan::new(text, &module, is_test) {
            Ok(scan) => scan,
            Err(error) => {
                broken.push(format!("{file}: cannot be read: {error}"));
                continue;
            }
        };
        budget(file, &scan, &mut broken);
        for named in scan.named.iter().filter(|named| !named.in_test) {
            let top = top_of(file);
            for what in [
                imports(&top, named, &implementations),
                only_in(file, named),
                purity(&top, named),
                status(&top, named),
            ]
            .into_iter()
            .flatten()
            {
                broken.push(format!("{file}:{}: {what}", named.line));
            }
        }
    }
    broken
}

fn budget(file: &str, scan: &Scan, broken: &mut Vec<String>) {
    let (code, test) = (scan.code_lines.len(), scan.test_lines.len());
    if code > CODE_LINES_MAX {
        broken.push(format!(
            "{file}: {code} lines of code, more than {CODE_LINES_MAX}"
        ));
    }
    if test > TEST_LINES_MAX {
        broken.push(format!(
            "{file}: {test} lines of tests, more than {TEST_LINES_MAX}"
        ));
    }
}

fn imports(top: &str, named: &Named, implementations: &BTreeSet<Vec<String>>) -> Option<String> {
    let [root, target, rest @ ..] = &named.path[..] else {
        return None;
    };
    if root != "crate" || target == top || target == "*" {
        return None;
    }
    let Some((_, allowed)) = MAY_NAME.iter().find(|(module, _)| module == &top) else {
        return Some(format!(
            "{top} has no line in MAY_NAME: say whom it may name"
        ));
    };
    let path = named.path.join("::");
    if *allowed != EVERYTHING && !allowed.contains(&target.as_str()) {
        return Some(format!("{top} names {path}"));
    }
    let inner = rest.first().map(|name| vec![target.clone(), name.clone()]);
    let hidden = inner.is_some_and(|inner| {
        let spoken_of = VOCABULARY.iter().any(|name| inner == name);
        (implementations.contains(&inner) && !spoken_of) || inner[1] == "*"
    });
    if top == "session" && (target == "upstream" || target == "store") && hidden {
        return Some(format!(
            "session names {path}, which is not of the trait's own module"
        ));
    }
    None
}

fn only_in(file: &str, named: &Named) -> Option<String> {
    let (name, home) = ONLY_IN.iter().find(|(name, _)| *name == named.path[0])?;
    (named.rooted && !file.starts_with(home)).then(|| format!("{name} is named outside {home}"))
}

fn purity(top: &str, named: &Named) -> Option<String> {
    if top != "resume" {
        return None;
    }
    let path = named.path.join("::");
    let begins = |impure: &&&str| {
        named.rooted && (path == **impure || path.starts_with(&format!("{impure}::")))
    };
    let word = named
        .path
        .iter()
        .find(|word| IMPURE_WORDS.contains(&word.as_str()));
    let impure = IMPURE_PATHS.iter().find(begins).copied();
    let what = impure.or(word.map(String::as_str))?;
    Some(format!("resume names {what} and is not pure any more"))
}

/// `Status::internal(..)` and the like: a path that goes through `Status` to a
/// function.
fn status(top: &str, named: &Named) -> Option<String> {
    let made = named.path.windows(2).any(|pair| {
        pair[0] == "Status" && pair[1].starts_with(|first: char| first.is_ascii_lowercase())
    });
    (made && top != "grpc").then(|| format!("{top} makes a Status: only grpc does"))
}

/// The module a file is: `src/store/sled.rs` is `[store, sled]`.
fn module_of(file: &str) -> Vec<String> {
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut module: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] || module == ["main"] {
        module.pop();
    }
    module
}

/// The module right below the crate: `resume`, or `lib` and `main`.
fn top_of(file: &str) -> String {
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
    inner.split('/').next().unwrap_or(inner).to_owned()
}

fn test_modules(files: &[(String, String)]) -> Vec<Vec<String>> {
    files
        .iter()
        .filter(|(file, _)| file.starts_with("src/"))
        .filter_map(|(file, text)| Scan::new(text, &module_of(file), false).ok())
        .flat_map(|scan| scan.test_modules)
        .collect()
}

fn in_test_module(module: &[String], test_modules: &[Vec<String>]) -> bool {
    test_modules
        .iter()
        .any(|test_module| module.starts_with(test_module))
}

/// What `upstream` and `store` keep in modules of their own: the modules, and
/// what their `mod.rs` takes from them.
fn implementations(files: &[(String, String)]) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for (file, text) in files {
        let module = module_of(file);
        let ["upstream" | "store", rest @ ..] =
            &module.iter().map(String::as_str).collect::<Vec<_>>()[..]
        else {
            continue;
        };
        if let Some(inner) = rest.first() {
            found.insert(vec![module[0].clone(), (*inner).to_owned()]);
            continue;
        }
        let Ok(scan) = Scan::new(text, &module, false) else {
            continue;
        };
        for named in scan.named {
            // crate::store::sled::SledStore, and sled::SledStore beside `mod sled`.
            if let [.., name] = &named.path[..]
                && named.path.len() > 2
                && named.path.first().is_some_and(|root| root == "crate")
                && named.path.get(1) == Some(&module[0])
            {
                found.insert(vec![module[0].clone(), name.clone()]);
            }
        }
    }
    found
}
