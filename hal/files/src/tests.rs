#![cfg(unix)]

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

/// A folder of a test's own, removed when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("hetero-files-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Scratch(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    fn pipe(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Calls `work` on a thread of its own, so that a call that hangs fails the test.
fn ends<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    outcome.recv_timeout(Duration::from_secs(60)).unwrap()
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let scratch = Scratch::new();
    let socket = scratch.path("socket");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let link = scratch.path("link");
    symlink(scratch.pipe("pipe"), &link).unwrap();
    for (path, word) in [
        (scratch.path("pipe"), "a pipe"),
        (link, "a pipe"),
        (PathBuf::from("/dev/zero"), "a device"),
        (PathBuf::from("/dev/null"), "a device"),
        (scratch.0.clone(), "a folder"),
    ] {
        let errors = ends(move || {
            let around = Folder::around(&path).map(|_| ()).unwrap_err();
            [read(&path, 100).unwrap_err(), read_text(&path, 100).unwrap_err(), around]
        });
        for error in errors {
            assert!(error.to_string().contains(word), "{word}: {error}");
            assert!(matches!(error, Error::NotRegular(_)), "{word}: {error:?}");
        }
    }
    // Sockets cannot be opened at all.
    assert!(ends(move || read(socket, 100)).is_err());
    let absent = scratch.path("absent");
    assert_eq!(ends(move || read(absent, 100)).unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn files_are_read_within_bounds() {
    let scratch = Scratch::new();
    let path = scratch.file("file", b"12345");
    assert_eq!(read(&path, 5).unwrap(), &b"12345"[..]);
    assert_eq!(read_text(&path, 5).unwrap(), "12345");
    let error = read(&path, 4).unwrap_err();
    assert!(matches!(error, Error::TooLarge { found: 5, most: 4 }) && error.to_string().contains("larger than 4"));
    assert_eq!(read(scratch.file("empty", b""), 0).unwrap().len(), 0);
    assert!(matches!(read_text(scratch.file("text", b"\xff"), 9), Err(Error::NotText(_))));
    // A file with a hole of a petabyte is refused before anything is read.
    let hole = scratch.path("hole");
    let made = std::fs::File::create(&hole).unwrap();
    if made.set_len(1 << 40).is_ok() {
        assert!(matches!(read(&hole, 1 << 20), Err(Error::TooLarge { found, .. }) if found == 1 << 40));
    }
}

#[test]
fn a_file_that_grows_or_shrinks_while_it_is_read_is_an_error() {
    let scratch = Scratch::new();
    for (after, named) in [(9, 9), (2, 2), (0, 0)] {
        let path = scratch.file("file", b"12345");
        let opened = Opened::open(&path).unwrap();
        assert_eq!(opened.bytes(), 5);
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(after).unwrap();
        let error = opened.read(1 << 20).unwrap_err();
        assert!(matches!(error, Error::Changed { before: 5, after } if after == named), "{error:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_has_more_than_it_says_is_an_error() {
    let error = read("/proc/self/status", 1 << 20).unwrap_err();
    assert!(matches!(error, Error::Changed { before: 0, .. }), "{error:?}");
}

#[test]
fn a_part_is_aligned_as_it_is_in_its_file() {
    let scratch = Scratch::new();
    let content: Vec<u8> = (0..300_000u32).map(|number| (number % 251) as u8).collect();
    let path = scratch.file("file", &content);
    let opened = Opened::open(&path).unwrap();
    for (start, end) in [(0, 0), (300_000, 300_000), (5, 9), (40, 60_040), (4100, 204_100), (1, 300_000)] {
        let part = opened.read_part(start..end).unwrap();
        assert_eq!(part, content[start as usize..end as usize]);
        let grain = if end - start < 100_000 { 16 } else { 4096 };
        assert!(part.is_empty() || part.as_ptr().addr() % grain == start as usize % grain, "{start} {end}");
    }
    for part in [0..300_001, 300_001..300_002, u64::MAX - 1..u64::MAX] {
        let error = opened.read_part(part).unwrap_err();
        assert!(matches!(error, Error::PastEnd { bytes: 300_000, .. }), "{error}");
    }
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(50).unwrap();
    for part in [0..40, 40..60, 100..200_000] {
        assert!(matches!(opened.read_part(part), Err(Error::Changed { before: 300_000, after: 50 })));
    }
}

#[test]
fn bytes_that_were_read_outlive_their_file() {
    let scratch = Scratch::new();
    let content = vec![7; 100_000];
    let path = scratch.file("file", &content);
    let bytes = read(&path, 1 << 20).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    // A mapped file would end the process here.
    assert_eq!(bytes, content);
    // Devices take memory in place where it is aligned to pages.
    assert_eq!(bytes.as_ptr().align_offset(4096), 0);
}

#[test]
fn a_text_comes_through_a_pipe_that_the_process_was_given() {
    let through = |name: String| {
        let (from, mut into) = std::io::pipe().unwrap();
        into.write_all(b"depth: 3").unwrap();
        drop(into);
        ends(move || {
            let path = name.replace('N', &std::os::fd::AsRawFd::as_raw_fd(&from).to_string());
            (read_text(&path, 8), read(&path, 8).map(|_| ()))
        })
    };
    for name in ["/dev/fd/N", "/proc/self/fd/N"] {
        let (text, bytes) = through(name.to_owned());
        assert_eq!(text.unwrap(), "depth: 3");
        assert!(matches!(bytes, Err(Error::NotRegular("a pipe"))));
    }
    let endless = std::io::pipe().unwrap();
    let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&endless.0));
    let mut into = endless.1.try_clone().unwrap();
    std::thread::spawn(move || while into.write_all(&[b'#'; 4096]).is_ok() {});
    let error = ends(move || read_text(&path, 100_000)).unwrap_err();
    assert!(matches!(error, Error::TooLarge { most: 100_000, .. }), "{error:?}");
    let silent = std::io::pipe().unwrap();
    let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&silent.0));
    assert!(matches!(ends(move || read_text(&path, 100)), Err(Error::Stalled { .. })));
}

/// Opens a path in both ways, which have to agree, and returns the content.
fn beside(folder: &Folder, path: &str) -> Result<Bytes> {
    let checked = folder.open_checked(Path::new(path)).and_then(|opened| opened.read(100));
    let opened = folder.open(path).and_then(|opened| opened.read(100));
    match (&opened, &checked) {
        (Ok(opened), Ok(checked)) => assert_eq!(opened, checked, "{path}"),
        (Err(opened), Err(checked)) => assert_eq!(opened.kind(), checked.kind(), "{path}: {opened}, {checked}"),
        _ => panic!("{path}: {opened:?} {checked:?}"),
    }
    opened
}

#[test]
fn a_file_beside_another_lies_in_its_folder() {
    let scratch = Scratch::new();
    scratch.file("secret", b"secret");
    scratch.file("elsewhere/secret", b"secret");
    scratch.file("home/deep/data", b"inside");
    let model = scratch.file("home/model", b"model");
    scratch.file("home/data", b"inside");
    let link =
        |target: &str, name: &str| symlink(target.replace("ROOT", scratch.0.to_str().unwrap()), scratch.path(name));
    for (target, name) in [
        ("../secret", "home/out"),
        ("ROOT/secret", "home/out-by-root"),
        ("..", "home/up"),
        ("ROOT/elsewhere", "home/away"),
        ("out", "home/twice"),
        ("deep/data", "home/in"),
        ("ROOT/home/deep/data", "home/in-by-root"),
        ("../home/data", "home/back"),
        ("deep", "home/folder"),
        ("loop", "home/loop"),
        ("/proc/self/root", "home/magic"),
    ] {
        link(target, name).unwrap();
    }
    scratch.pipe("home/pipe");
    let (folder, opened) = Folder::around(&model).unwrap();
    assert_eq!(opened.read(100).unwrap(), &b"model"[..]);
    let by_root = scratch.path("home/data").display().to_string();
    for path in [
        "data",
        "./data",
        "deep/data",
        "deep/../data",
        "in",
        "in-by-root",
        "back",
        "folder/data",
        "../home/data",
        &by_root,
    ] {
        assert_eq!(beside(&folder, path).unwrap(), &b"inside"[..], "{path}");
    }
    let secret = scratch.path("secret").display().to_string();
    for path in ["../secret", &secret, "out", "out-by-root", "up/secret", "away/secret", "twice", "/etc/passwd"] {
        assert!(matches!(beside(&folder, path), Err(Error::Outside)), "{path}");
    }
    for path in ["pipe", ".", "deep", "deep/", ""] {
        assert!(beside(&folder, path).is_err(), "{path}");
    }
    for path in ["loop", "absent", "data/", "data/x", "magic/etc/passwd", "/proc/self/fd/0", "/dev/zero"] {
        assert!(folder.open(path).is_err() && folder.open_checked(Path::new(path)).is_err(), "{path}");
    }
}

/// Downloads are kept like this: the names in one folder, the content in another.
#[test]
fn a_file_that_was_named_by_a_link_has_the_folder_of_its_target_too() {
    let scratch = Scratch::new();
    scratch.file("blobs/1", b"model");
    scratch.file("blobs/2", b"inside");
    scratch.file("secret", b"secret");
    std::fs::create_dir_all(scratch.path("snapshots/a")).unwrap();
    let link = |target: &str, name: &str| symlink(target, scratch.path("snapshots/a").join(name)).unwrap();
    link("../../blobs/1", "model");
    link("model", "again");
    link("../../blobs/2", "data");
    link("../../secret", "out");
    scratch.file("snapshots/a/plain", b"plain");
    for name in ["model", "again"] {
        let (folder, opened) = Folder::around(scratch.path("snapshots/a").join(name)).unwrap();
        assert_eq!(opened.read(100).unwrap(), &b"model"[..]);
        assert_eq!(beside(&folder, "data").unwrap(), &b"inside"[..]);
        assert_eq!(beside(&folder, "plain").unwrap(), &b"plain"[..]);
        assert!(matches!(beside(&folder, "out"), Err(Error::Outside)));
    }
    // A file that is no link has one folder, and a link beside it may not leave that.
    let (folder, _) = Folder::around(scratch.path("snapshots/a/plain")).unwrap();
    assert!(matches!(beside(&folder, "data"), Err(Error::Outside)));
}

#[test]
fn what_is_exchanged_while_it_is_opened_never_leads_out() {
    let scratch = Scratch::new();
    scratch.file("away/data", b"secret");
    let model = scratch.file("home/model", b"model");
    scratch.file("home/data", b"inside");
    scratch.file("home/deep/data", b"inside");
    let home = scratch.path("home");
    let stop = Arc::new(AtomicBool::new(false));
    let exchanging = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for (name, target) in [("data", "../away/data"), ("deep", "../away")] {
                    let (name, aside, link) = (home.join(name), home.join("aside"), home.join("link"));
                    symlink(target, &link).unwrap();
                    std::fs::rename(&name, &aside).unwrap();
                    std::fs::rename(&link, &name).unwrap();
                    std::fs::rename(&name, &link).unwrap();
                    std::fs::rename(&aside, &name).unwrap();
                    std::fs::remove_file(&link).unwrap();
                }
            }
        })
    };
    let (folder, _) = Folder::around(model).unwrap();
    let mut read = 0;
    for at in 0.. {
        let path = ["data", "deep/data"][at % 2];
        let opened = if at % 4 < 2 { folder.open(path) } else { folder.open_checked(Path::new(path)) };
        if let Ok(opened) = opened {
            assert_eq!(opened.read(100).unwrap(), &b"inside"[..]);
            read += 1;
        }
        if at > 4000 && read > 100 {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    exchanging.join().unwrap();
}

#[test]
fn a_file_is_replaced_as_a_whole_or_not_at_all() {
    let scratch = Scratch::new();
    let path = scratch.file("file", b"old");
    let full = |out: &mut dyn Write| {
        out.write_all(&[7; 1 << 20])?;
        Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
    };
    assert_eq!(replace_with(&path, full).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert_eq!((std::fs::read(&path).unwrap(), scratch.names()), (b"old".to_vec(), vec!["file".to_owned()]));
    assert!(replace_with(scratch.path("fresh"), full).is_err());
    let panics = std::panic::catch_unwind(|| replace_with(&path, |_| panic!("while writing")));
    assert!(panics.is_err() && scratch.names() == ["file"]);
    replace(&path, b"new").unwrap();
    replace(scratch.path("fresh"), b"new").unwrap();
    assert_eq!((std::fs::read(&path).unwrap(), scratch.names().len()), (b"new".to_vec(), 2));
    assert!(matches!(replace(&scratch.0, b""), Err(Error::NotRegular("a folder"))));
    assert_eq!(replace(scratch.path("no/file"), b"").unwrap_err().kind(), std::io::ErrorKind::NotFound);
    // The longest name that there may be leaves no room for more in a draft's name.
    replace(scratch.path(&"n".repeat(255)), b"new").unwrap();
}

#[test]
fn a_file_that_is_replaced_keeps_its_permissions_and_its_links() {
    let scratch = Scratch::new();
    let path = scratch.file("deep/file", b"old");
    symlink("deep/file", scratch.path("link")).unwrap();
    symlink("deep/fresh", scratch.path("dangling")).unwrap();
    for permissions in [0o600, 0o666, 0o755] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(permissions)).unwrap();
        replace(scratch.path("link"), permissions.to_string()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, permissions);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), permissions.to_string());
    }
    assert!(scratch.path("link").is_symlink());
    replace(scratch.path("dangling"), b"new").unwrap();
    assert_eq!(std::fs::read(scratch.path("deep/fresh")).unwrap(), b"new");
    assert_eq!(std::fs::read_dir(scratch.path("deep")).unwrap().count(), 2);
}

#[test]
fn what_is_no_file_is_written_to_and_not_replaced() {
    let scratch = Scratch::new();
    let pipe = scratch.pipe("pipe");
    let error = ends({
        let pipe = pipe.clone();
        move || replace(pipe, b"lost").unwrap_err()
    });
    assert!(error.to_string().contains("nobody reads"), "{error}");
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read(pipe).unwrap()
    });
    // More than a pipe holds: the writer has to wait for the reader.
    let sent = vec![3; 1 << 20];
    let written = ends({
        let (pipe, sent) = (pipe.clone(), sent.clone());
        move || loop {
            match replace(&pipe, &sent) {
                Err(Error::NotRegular(_)) => std::thread::yield_now(),
                done => return done,
            }
        }
    });
    written.unwrap();
    assert_eq!(reader.join().unwrap(), sent);
    replace("/dev/null", b"gone").unwrap();
    let full = replace("/dev/full", b"no room").unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(scratch.names(), ["pipe"]);
    // A pipe whose reader sleeps.
    let _sleeping = rustix::fs::open(&pipe, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK, Mode::empty());
    assert!(matches!(ends(move || replace(pipe, vec![0; 1 << 20])), Err(Error::Stalled { .. })));
}

#[test]
fn drafts_that_nobody_writes_any_more_are_removed_and_others_stay() {
    let scratch = Scratch::new();
    for name in [".hetero-7-1.tmp", ".hetero-notes.tmp", ".hetero-7-1.tmp.txt"] {
        std::fs::write(scratch.path(name), "half a fi").unwrap();
    }
    let path = scratch.path("file");
    replace_with(&path, |out| {
        out.write_all(b"whole")?;
        // The draft of this very file is under way, whoever cleans up meanwhile.
        (0..3).for_each(|_| remove_old_drafts(&scratch.0));
        assert_eq!(scratch.names().len(), 3);
        Ok(())
    })
    .unwrap();
    assert_eq!(scratch.names(), [".hetero-7-1.tmp.txt", ".hetero-notes.tmp", "file"]);
    assert_eq!(std::fs::read(path).unwrap(), b"whole");
}

#[test]
fn writers_and_those_who_clean_up_do_not_hinder_each_other() {
    let scratch = Scratch::new();
    std::thread::scope(|scope| {
        for writer in 0..4u8 {
            let path = scratch.path(&format!("file {writer}"));
            scope.spawn(move || (0..200u8).for_each(|round| replace(&path, [round]).unwrap()));
            scope.spawn(|| (0..200).for_each(|_| remove_old_drafts(&scratch.0)));
        }
    });
    assert_eq!(scratch.names(), ["file 0", "file 1", "file 2", "file 3"]);
}

#[test]
fn many_writers_of_one_file_leave_one_whole_content() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    std::thread::scope(|scope| {
        for writer in 0..8u8 {
            let path = &path;
            scope.spawn(move || (0..50).for_each(|_| replace(path, vec![writer; 10_000]).unwrap()));
        }
    });
    let left = std::fs::read(&path).unwrap();
    assert!(left.len() == 10_000 && left.iter().all(|byte| *byte == left[0]));
    assert_eq!(scratch.names(), ["file"]);
}
