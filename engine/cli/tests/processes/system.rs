//! Commands that the system gives no room, no home, few descriptors, few processes or little stack.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::folder::{Folder, elements, expected, is_draft, names};
use crate::started::{Started, said};

/// A run, and what it has to do with files.
const RUN: &str = "run m.onnx --device cpu:0 --input x=new.npy --output out";

/// Takes away the signal that would end a process whose file grows beyond its limit, of so many
/// blocks.
fn full(blocks: u32) -> String {
    format!("trap '' XFSZ; ulimit -f {blocks};")
}

/// Runs the binary with these arguments, after other words of the shell.
fn shell(folder: &Folder, before: &str, arguments: &str) -> Output {
    Started::new(&mut folder.shell(&format!("{before} exec \"$HETERO\" {arguments}"))).end()
}

/// Checks that a command ended in a result or in one report, and returns whether it succeeded.
fn is_clean(output: &Output, what: &str) -> bool {
    let said = said(output);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{what}: {:?}: {said}", output.status);
    assert!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{what}: {said}");
    let reports = said.matches("hetero::failed").count();
    assert_eq!(reports, usize::from(!output.status.success()), "{what}: {said}");
    output.status.success()
}

/// Checks that the outputs of the run in this folder are right.
fn are_right(folder: &Folder, out: &str) {
    for (name, bytes) in expected(1) {
        assert!(elements(&folder.read(&format!("{out}/{name}"))) == elements(&bytes), "{out}/{name}");
    }
}

/// Returns how often a text stands in another one.
fn times(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[test]
fn a_full_disk_leaves_old_files_no_parts_and_a_remedy() {
    let folder = Folder::new("full");
    let run = || shell(&folder, "", RUN);
    assert!(run().status.success());
    let whole = folder.read("out/wide.npy");
    let blocks = whole.len() as u64 / 512;
    // No room at all, room for the small output, and room for most of the large one.
    for (limit, failed) in [(0, "out/y.npy"), (200, "out/wide.npy"), (blocks as u32 - 1, "out/wide.npy")] {
        let output = shell(&folder, &full(limit), &RUN.replace("new.npy", "old.npy"));
        let said = said(&output);
        assert!(!is_clean(&output, "run"), "{limit}: {said}");
        let cause = format!("cannot write {failed}: File too large");
        assert!(said.contains(&cause) && said.contains("help: make room there, or name another place"), "{said}");
        assert!(folder.read("out/wide.npy") == whole, "{limit}");
        assert_eq!(names(&folder.path("out")), ["wide.npy", "y.npy"], "{limit}");
    }
    assert!(run().status.success());
    are_right(&folder, "out");
    // Of plans, profiles and pages, nothing is left either.
    std::fs::write(folder.path("profile.json"), "old").unwrap();
    for (command, file) in [
        ("plan m.onnx --device cpu:0 -o plan.json", "plan.json"),
        ("plan m.onnx --device cpu:0 --html plan.html", "plan.html"),
        ("calibrate --device cpu:0 --seconds 1 --out profile.json", "profile.json"),
        ("conformance --device cpu:0 --filter Relu --junit junit.xml", "junit.xml"),
    ] {
        let before = names(&folder.0);
        let output = shell(&folder, &full(0), command);
        let said = said(&output);
        assert!(!is_clean(&output, command) && said.contains("File too large") && said.contains(file), "{said}");
        assert!(said.contains("help: ") || said.contains("; name another file"), "{said}");
        assert_eq!(names(&folder.0), before, "{command}");
    }
    assert_eq!(folder.read("profile.json"), b"old");
    // A device without room is a place like others.
    let output = shell(&folder, "", "plan m.onnx --device cpu:0 -o /dev/full");
    let said = said(&output);
    assert!(!is_clean(&output, "plan") && said.contains("cannot write /dev/full: No space left on device"), "{said}");
}

#[test]
fn what_cannot_be_kept_is_said_once_and_done_without() {
    let folder = Folder::new("kept");
    std::fs::write(folder.path("file"), "in the way").unwrap();
    for cache in ["file", "file/below", "/dev/null", "/proc/nowhere"] {
        let output = shell(&folder, "", &format!("{RUN} --cache {cache}"));
        assert!(is_clean(&output, cache));
        let warning = format!("compiled programs are not kept: cannot write to the cache {cache}: ");
        assert_eq!(times(&said(&output), &warning), 1, "{}", said(&output));
        are_right(&folder, "out");
    }
    let output = shell(&folder, &full(200), "run m.onnx --device cpu:0 --input x=new.npy --cache kept");
    let told = said(&output);
    assert!(is_clean(&output, "full") && times(&told, "are not kept") == 1 && told.contains("too large"), "{told}");
    assert_eq!(names(&folder.path("kept")), Vec::<String>::new());
    let output = shell(&folder, "", "run m.onnx --device cpu:0 --input x=new.npy --cache kept");
    assert!(output.stderr.is_empty() && names(&folder.path("kept")).len() == 1, "{}", said(&output));
    // A warning changes nothing of a document.
    let output = shell(&folder, "", &format!("{RUN} --cache file --json"));
    let _: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
}

#[test]
fn examinations_that_cannot_be_kept_are_said_once() {
    let folder = Folder::new("examined");
    std::fs::write(folder.path("file"), "in the way").unwrap();
    let examined = "run m.onnx --random 1 --device cpu:0 --inject cpu:0=wrong";
    for (before, reason) in [
        ("export XDG_CACHE_HOME=\"$PWD/file\";", "cannot write to "),
        ("export HOME=/proc/nowhere;", "cannot write to /proc/nowhere/.cache/hetero/examined: "),
        ("export HOME=/dev/null;", "cannot write to /dev/null/.cache/hetero/examined: "),
        ("unset HOME;", "neither XDG_CACHE_HOME nor HOME names a folder"),
        (&full(0), "File too large"),
    ] {
        let output = shell(&folder, before, examined);
        let told = said(&output);
        // The examination itself is done, and finds what is wrong.
        assert!(!is_clean(&output, before) && told.contains("wrong results: "), "{before}: {told}");
        assert_eq!(times(&told, "examinations are not kept"), 1, "{before}: {told}");
        assert!(told.contains(reason), "{before}: {told}");
    }
    let examined = folder.path("home/.cache/hetero/examined");
    assert_eq!(names(&examined), Vec::<String>::new());
    // An examination needs no folder for temporary files.
    let output =
        shell(&folder, "export TMPDIR=/proc/nowhere;", "run m.onnx --random 1 --device cpu:0 --inject cpu:0=wrong");
    assert!(said(&output).contains("wrong results: ") && names(&examined).len() == 1, "{}", said(&output));
}

#[test]
fn a_command_needs_neither_home_nor_temporary_files_nor_its_folder() {
    let folder = Folder::new("home");
    for (number, before) in [
        "unset HOME XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_RUNTIME_DIR TMPDIR;",
        "export HOME=/dev/null;",
        "export HOME=/proc/nowhere TMPDIR=/proc/nowhere XDG_RUNTIME_DIR=/proc/nowhere;",
        "export HOME= XDG_CACHE_HOME=;",
        "export XDG_CACHE_HOME=/proc/nowhere;",
        "export TMPDIR=/dev/null;",
    ]
    .iter()
    .enumerate()
    {
        let out = format!("out{number}");
        for command in [
            "inspect m.onnx".to_owned(),
            "devices".to_owned(),
            "plan m.onnx --device cpu:0 -o plan.json".to_owned(),
            format!("run m.onnx --device cpu:0 --input x=new.npy --output {out} --cache kept"),
            "calibrate m.onnx --device cpu:0 --seconds 1 --out profile.json".to_owned(),
        ] {
            // What drivers need is not hetero's to say.
            let before = format!(
                "{before} export OCL_ICD_VENDORS=/proc/nowhere VK_ICD_FILENAMES=/proc/nowhere VK_DRIVER_FILES=/proc/nowhere;"
            );
            let output = shell(&folder, &before, &command);
            assert!(is_clean(&output, &command), "{before} {command}: {}", said(&output));
        }
        are_right(&folder, &out);
    }
    // Without a name and without a home, there is no place for a profile.
    let output = shell(&folder, "unset HOME;", "calibrate --device cpu:0");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("name a file with `--out FILE`"), "{}", said(&output));
    // The folder is gone, and whole paths still lead somewhere.
    let whole = |name: &str| folder.path(name).display().to_string();
    let gone = "mkdir gone; cd gone; rmdir ../gone;";
    let run = format!("run {} --device cpu:0 --input x={}", whole("m.onnx"), whole("new.npy"));
    let output = shell(&folder, gone, &format!("{run} --output {}", whole("outgone")));
    assert!(is_clean(&output, gone), "{}", said(&output));
    are_right(&folder, "outgone");
    let output = shell(&folder, gone, &format!("{run} --output out"));
    assert!(!is_clean(&output, gone) && said(&output).contains("cannot write out: "), "{}", said(&output));
    let output = shell(&folder, gone, &format!("plan {} --device cpu:0 -o p.json", whole("m.onnx")));
    assert!(!is_clean(&output, gone) && said(&output).contains("cannot write p.json: "), "{}", said(&output));
    let output = shell(&folder, gone, "inspect m.onnx");
    assert!(!is_clean(&output, gone) && said(&output).contains("m.onnx: "), "{}", said(&output));
}

/// Returns a user without rights as words of the shell: nobody, where this is the user with all
/// rights, or else the one who runs this test.
/// Returns `None` with a printed reason where there is no such user to be had.
fn ordinary(folder: &Folder) -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("");
    }
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups ";
    let try_out = format!("exec {nobody} \"$HETERO\" inspect m.onnx >/dev/null");
    let output = Started::new(&mut folder.shell(&try_out)).end();
    if output.status.success() {
        return Some(nobody);
    }
    println!("skipped, as no user without rights can run the binary: {}", said(&output));
    None
}

#[test]
fn folders_that_may_not_be_written() {
    let folder = Folder::new("readonly");
    // What nobody can write, not even the user with all rights.
    for (command, words) in [
        ("run m.onnx --device cpu:0 --random 1 --output /proc/nowhere", "cannot write /proc/nowhere: "),
        ("run m.onnx --device cpu:0 --random 1 --output m.onnx", "cannot write m.onnx: "),
        ("run m.onnx --device cpu:0 --random 1 --output /proc", "cannot write /proc/y.npy: "),
        ("plan m.onnx --device cpu:0 -o /proc/plan.json", "cannot write /proc/plan.json: "),
        ("plan m.onnx --device cpu:0 --dot m.onnx/plan.dot", "cannot write m.onnx/plan.dot: "),
        ("calibrate m.onnx --device cpu:0 --seconds 1 --out /proc/p.json", "cannot write the profile /proc/p.json: "),
    ] {
        let output = shell(&folder, "", command);
        assert!(!is_clean(&output, command) && said(&output).contains(words), "{command}: {}", said(&output));
    }
    let Some(user) = ordinary(&folder) else { return };
    for name in ["out", "home/.cache/hetero", "kept"] {
        std::fs::create_dir_all(folder.path(name)).unwrap();
        mode(&folder.path(name), "555");
    }
    std::fs::write(folder.path("home/.cache/hetero/profile.json"), "{}").unwrap_or(());
    let as_user = |arguments: &str| {
        let line = format!("exec {user} \"$HETERO\" {arguments}");
        Started::new(&mut folder.shell(&line)).end()
    };
    let _ = std::fs::remove_file(folder.path("home/.cache/hetero/profile.json"));
    let run = "run m.onnx --device cpu:0 --input x=new.npy";
    let output = as_user(&format!("{run} --output out"));
    let told = said(&output);
    assert!(!is_clean(&output, "out") && told.contains("cannot write out/y.npy: Permission denied"), "{told}");
    let output = as_user(&format!("{run} --cache kept"));
    assert!(is_clean(&output, "kept") && times(&said(&output), "are not kept: cannot write") == 1, "{}", said(&output));
    let output = as_user("run m.onnx --device cpu:0 --random 1 --inject cpu:0=wrong");
    let told = said(&output);
    assert!(told.contains("wrong results: ") && times(&told, "examinations are not kept") == 1, "{told}");
    let output = as_user("calibrate m.onnx --device cpu:0 --seconds 1");
    let told = said(&output);
    assert!(
        !is_clean(&output, "profile") && told.contains("Permission denied") && told.contains("name another"),
        "{told}"
    );
    for name in ["out", "home/.cache/hetero", "kept"] {
        mode(&folder.path(name), "755");
        assert_eq!(names(&folder.path(name)), Vec::<String>::new());
    }
}

fn mode(path: &Path, mode: &str) {
    assert!(Command::new("chmod").arg(mode).arg(path).status().unwrap().success());
}

#[test]
fn few_descriptors_are_enough_or_a_clean_error() {
    let folder = Folder::new("descriptors");
    let mut least = None;
    for most in [4, 5, 6, 7, 8, 10, 16, 32] {
        let limit = format!("ulimit -n {most};");
        for command in ["inspect m.onnx", "plan m.onnx --device cpu:0 -o plan.json"] {
            let output = shell(&folder, &limit, command);
            let done = is_clean(&output, &format!("{most}: {command}"));
            assert!(done || said(&output).contains("Too many open files"), "{most}: {}", said(&output));
        }
        let _ = std::fs::remove_dir_all(folder.path("out"));
        let output = shell(&folder, &limit, &format!("{RUN} --cache kept"));
        if is_clean(&output, &format!("{most}: run")) {
            are_right(&folder, "out");
            least = least.or(Some(most));
        } else {
            assert!(said(&output).contains("Too many open files"), "{most}: {}", said(&output));
            assert!(!names(&folder.path("out")).iter().any(|name| is_draft(name)));
        }
        // A device whose driver cannot be examined is no crash of this process, and what few
        // descriptors made of it is not kept for other processes.
        let output = shell(&folder, &limit, "run m.onnx --random 1 --device cpu:0 --inject cpu:0=crash-run");
        // A driver that crashes is found out by then, or it is said that nobody asked it.
        let unexamined = said(&output).contains("cpu:0 is not examined: no process for the examination: ");
        let crashed = output.status.signal() == Some(6) && unexamined;
        assert!(crashed || !is_clean(&output, &format!("{most}: examination")), "{most}: {}", said(&output));
        assert_eq!(names(&folder.path("home/.cache/hetero/examined")), Vec::<String>::new(), "{most}");
    }
    println!("a run takes {least:?} descriptors");
    assert!(least.is_some_and(|least| least <= 16));
}

#[test]
fn a_device_that_could_not_be_examined_for_want_of_descriptors_is_examined_the_next_time() {
    let folder = Folder::new("narrow");
    let examined = "run m.onnx --random 1 --device cpu:0 --inject cpu:0=wrong";
    let output = shell(&folder, "ulimit -n 5;", examined);
    assert!(is_clean(&output, "narrow") || !said(&output).contains("crashed"), "{}", said(&output));
    let output = shell(&folder, "ulimit -n 1024;", examined);
    assert!(!is_clean(&output, "wide") && said(&output).contains("wrong results: "), "{}", said(&output));
    assert_eq!(names(&folder.path("home/.cache/hetero/examined")).len(), 1);
}

#[test]
fn little_stack_is_enough() {
    let folder = Folder::new("stack");
    for kilobytes in [1024, 256] {
        let limit = format!("ulimit -s {kilobytes};");
        for command in ["inspect m.onnx", "plan m.onnx --device cpu:0 --explain", RUN] {
            let output = shell(&folder, &limit, command);
            assert!(is_clean(&output, command), "{kilobytes}: {}", said(&output));
        }
        are_right(&folder, "out");
    }
}

#[test]
fn without_further_threads_a_command_works_or_says_so() {
    let folder = Folder::new("threads");
    let Some(user) = ordinary(&folder) else { return };
    if Command::new("prlimit").arg("--version").output().is_err() {
        println!("skipped, as there is no `prlimit` (util-linux)");
        return;
    }
    for name in ["", "home", "tmp"] {
        mode(&folder.path(name), "777");
    }
    for most in [1, 2, 3, 5, 8] {
        let line = format!("exec {user} prlimit --nproc={most} \"$HETERO\" {RUN}{most}");
        let output = Started::new(&mut folder.shell(&line)).end();
        let what = format!("{most} processes");
        if is_clean(&output, &what) {
            are_right(&folder, &format!("out{most}"));
        }
        println!("{what}: {}: {}", output.status, said(&output));
    }
}
