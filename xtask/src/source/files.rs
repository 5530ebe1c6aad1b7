//! The lint of files: only one crate opens, reads and writes them.

use std::path::Path;

use super::{Module, libraries, modules, tokens};
use crate::workspace::Result;

/// The crate that everybody else opens, reads and writes files by.
const KEEPER: &str = "hetero-files";
/// Functions of the standard library that wait for a pipe's other end, read without end, or leave
/// half a file.
const FORBIDDEN: [&str; 8] = [
    "fs::read(",
    "fs::read_to_string(",
    "fs::write(",
    "fs::copy(",
    "File::open(",
    "File::create(",
    "File::create_new(",
    "OpenOptions::new(",
];
/// Crates with a reason to read files by themselves: what they read are the kernel's own
/// descriptions of the machine under `/proc`, whose lengths are not told.
const EXEMPT: [&str; 4] = ["hetero-comm", "hetero-cpu", "hetero-examine", "hetero-handover"];

/// The functions that they may call.
const READS: [&str; 2] = ["fs::read_to_string(", "File::open("];

/// Checks that no library and not the command line opens files by the standard library.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut crates = libraries(root)?;
    crates.push(("hetero-cli".to_owned(), root.join("engine").join("cli").join("src").join("main.rs")));
    let mut wrong = Vec::new();
    for (name, library) in crates.iter().filter(|(name, _)| name != KEEPER && name != "xtask") {
        let only_reads = EXEMPT.contains(&name.as_str());
        let found = calls(&modules(library)?).into_iter();
        wrong.extend(found.filter(|(_, call)| !(only_reads && READS.contains(call))).map(|(module, call)| {
            format!("{name}, module '{module}': `{call}…)`; {KEEPER} has what neither hangs nor leaves half a file")
        }));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// Returns the forbidden calls in modules, each with its module.
fn calls(modules: &[Module]) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    for module in modules {
        let text: String = module.items.iter().map(|item| tokens::text(item) + "\n").collect();
        let called = |call: &&&str| text.match_indices(**call).any(|(at, _)| begins(&text[..at]));
        found.extend(FORBIDDEN.iter().filter(called).map(|call| (module.path.join("::"), *call)));
    }
    found
}

/// Tells whether a name can begin after this text, so that `Profile::open` is not `File::open`.
fn begins(before: &str) -> bool {
    !before.ends_with(|last: char| last.is_alphanumeric() || last == '_')
}

#[cfg(test)]
mod tests {
    use super::super::modules_of;
    use super::*;

    fn found(text: &str) -> Vec<&'static str> {
        calls(&modules_of(text).unwrap()).into_iter().map(|(_, call)| call).collect()
    }

    #[test]
    fn calls_that_may_hang_are_found_wherever_they_stand() {
        assert_eq!(found("fn a() { std::fs::read_to_string(path); }"), ["fs::read_to_string("]);
        assert_eq!(found("mod b { fn a() { let x = File::open(p).map(|f| fs::write(q, r)); } }").len(), 2);
        assert_eq!(found("impl A { fn a(&self) { std :: fs :: read (self.p) } }"), ["fs::read("]);
        assert_eq!(found("macro_rules! m { () => { OpenOptions::new().write(true) } }"), ["OpenOptions::new("]);
    }

    #[test]
    fn the_workspace_keeps_the_rule() {
        check(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap();
    }

    #[test]
    fn other_calls_and_those_of_tests_are_not_found() {
        let none: Vec<&str> = vec![];
        assert_eq!(found("fn a() { fs::read_dir(p); hetero_files::read(p, 9); MyFile::open(p); }"), none);
        assert_eq!(found("#[cfg(test)] mod tests { fn a() { std::fs::read(p); } }"), none);
    }
}
