//! Commands that are ended at any moment of each phase: by the system, which lets no process clean
//! up, and by the signals of users.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hetero::comm::Profile;
use rustix::process::Signal;

use crate::folder::{Folder, elements, expected, is_draft, names};
use crate::started::{Started, said};

/// The run whose phases are struck; its caches are the folder `kept`.
const RUN: [&str; 13] = [
    "--progress",
    "run",
    "m.onnx",
    "--device",
    "cpu:0",
    "--input",
    "x=new.npy",
    "--output",
    "out",
    "--cache",
    "kept",
    "--repeat",
    "10",
];
/// The time within which a signal ends a command.
const SOON: Duration = Duration::from_secs(2);

/// A phase of a command, what it writes, and how one tells that this is right.
struct Phase<'a> {
    name: &'a str,
    arguments: &'a [&'a str],
    /// The line of the standard error with which the phase begins, and the one that ends it, unless
    /// the process's end does.
    step: &'a str,
    next: Option<&'a str>,
    /// The exit code of the command when nobody disturbs it.
    code: i32,
    /// The files that the command writes, which have an old content before.
    files: &'a [(&'a str, Vec<u8>)],
    /// Tells whether this is the whole new content of a file.
    is_new: &'a dyn Fn(&str, &[u8]) -> bool,
    /// Makes everything else as it was before the first run.
    reset: &'a dyn Fn(),
}

/// How a command is ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Blow {
    /// The process is killed, and those that it started are not.
    Kill,
    /// All processes of the job get a signal, so often.
    Signal(Signal, u32),
}

/// What came of the blows.
#[derive(Debug, Default)]
struct Count {
    /// The blows in the phase, and those that came when it was over.
    hits: usize,
    late: usize,
    /// The files with their old content and with the new one afterwards, and the drafts that were
    /// left.
    old: usize,
    new: usize,
    drafts: usize,
}

fn wanted() -> usize {
    std::env::var("HETERO_KILLS").ok().map_or(3, |text| text.parse().unwrap())
}

/// A source of pseudo-random numbers by splitmix64.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("HETERO_KILLS_SEED").map_or(now, |text| text.parse().unwrap());
        println!("HETERO_KILLS_SEED={seed}");
        Random(seed)
    }

    /// Returns a number from 0 to 1.
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Phase<'_> {
    fn start(&self, folder: &Folder) -> Started {
        Started::new(&mut folder.command(self.arguments))
    }

    fn before(&self, folder: &Folder) {
        (self.reset)();
        for (name, old) in self.files {
            std::fs::create_dir_all(folder.path(name).parent().unwrap()).unwrap();
            std::fs::write(folder.path(name), old).unwrap();
        }
    }

    /// Returns the names of drafts beside all that the command writes.
    fn drafts(&self, folder: &Folder) -> Vec<String> {
        let places = self.files.iter().map(|(name, _)| folder.path(name).parent().unwrap().to_owned());
        let mut places: Vec<_> = places
            .chain(["kept", "home/.cache/hetero/examined", "home/.cache/hetero/opencl"].map(|name| folder.path(name)))
            .collect();
        places.sort();
        places.dedup();
        places.iter().flat_map(|place| names(place)).filter(|name| is_draft(name)).collect()
    }

    /// Runs the command undisturbed, checks what comes of it, and returns the time of the phase.
    fn whole(&self, folder: &Folder) -> Duration {
        let mut started = self.start(folder);
        assert!(started.hear(self.step), "{}: no step '{}'", self.name, self.step);
        let (status, _) = started.wait();
        let ended = Instant::now();
        let lines = started.lines().to_vec();
        assert_eq!(status.code(), Some(self.code), "{}: {lines:?}", self.name);
        let at = |step: &str| lines.iter().find(|(_, line)| line == step).map(|(at, _)| *at);
        for (name, _) in self.files {
            assert!((self.is_new)(name, &folder.read(name)), "{}: {name} after an undisturbed run", self.name);
        }
        assert_eq!(self.drafts(folder), Vec::<String>::new(), "{}: drafts after an undisturbed run", self.name);
        let end = self.next.and_then(at).unwrap_or(ended);
        end.duration_since(at(self.step).unwrap())
    }

    /// Ends the command at some moment of the phase, and checks what is left.
    fn strike(&self, folder: &Folder, blow: Blow, after: Duration, count: &mut Count) {
        self.before(folder);
        let mut started = self.start(folder);
        assert!(started.hear(self.step), "{}: no step '{}'", self.name, self.step);
        std::thread::sleep(after);
        let signal = match blow {
            Blow::Kill => {
                started.kill();
                Signal::KILL
            }
            Blow::Signal(signal, times) => {
                (0..times).for_each(|_| started.signal(signal));
                signal
            }
        };
        let (status, took) = started.wait();
        assert!(took < SOON, "{}: {blow:?} ended it after {took:?}", self.name);
        let lines = started.lines();
        // The process ended by the signal, as the system says it, or had ended by itself before.
        let ended = status.signal() == Some(signal.as_raw()) || status.code() == Some(self.code);
        assert!(ended, "{}: {blow:?}: {status:?} {lines:?}", self.name);
        let over = self.next.is_some_and(|next| lines.iter().any(|(_, line)| line == next)) || status.code().is_some();
        if over {
            count.late += 1
        } else {
            count.hits += 1
        }
        for (name, old) in self.files {
            let left = folder.read(name);
            match (left == *old, (self.is_new)(name, &left)) {
                (true, _) => count.old += 1,
                (false, true) => count.new += 1,
                (false, false) => {
                    panic!("{}: {blow:?}: {name} is neither old nor new: {} bytes", self.name, left.len())
                }
            }
        }
        let drafts = self.drafts(folder).len();
        assert!(drafts <= 1, "{}: {drafts} drafts of one process", self.name);
        count.drafts += drafts;
        no_process_is_left(folder);
    }
}

/// Waits until no process knows the folder as its place for temporary files any more.
fn no_process_is_left(folder: &Folder) {
    let mark = format!("TMPDIR={}\0", folder.path("tmp").display());
    let began = Instant::now();
    let knows = |process: std::fs::DirEntry| {
        let bytes = std::fs::read(process.path().join("environ")).unwrap_or_default();
        bytes.windows(mark.len()).any(|part| part == mark.as_bytes())
    };
    while std::fs::read_dir("/proc").unwrap().flatten().any(knows) {
        assert!(began.elapsed() < Duration::from_secs(10), "a process is left");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends a command in a phase by each kind of blow, and runs it again after each one.
fn strike(folder: &Folder, phase: &Phase<'_>) {
    strike_often(folder, phase, wanted());
}

fn strike_often(folder: &Folder, phase: &Phase<'_>, wanted: usize) {
    let mut random = Random::new();
    phase.before(folder);
    // The first run is slower than the others.
    phase.whole(folder);
    phase.before(folder);
    let time = phase.whole(folder);
    let signals = [(Signal::INT, 1), (Signal::TERM, 1), (Signal::HUP, 1), (Signal::INT, 2)];
    let blows = std::iter::once((Blow::Kill, wanted))
        .chain(signals.map(|(signal, times)| (Blow::Signal(signal, times), wanted.div_ceil(20))));
    for (blow, wanted) in blows {
        let mut count = Count::default();
        while count.hits < wanted {
            // Files are written at the beginning of their phase, so every other blow comes early.
            let power = if count.hits % 2 == 0 { 1 } else { 4 };
            phase.strike(folder, blow, time.mul_f64(random.share().powi(power)), &mut count);
            phase.whole(folder);
            assert!(count.late < 20 + 5 * wanted, "{}: the phase of {time:?} is never hit: {count:?}", phase.name);
        }
        println!("{} ({time:?}), {blow:?}: {count:?}", phase.name);
    }
    // A process that was killed as it began an examination may leave an empty folder, and no more.
    assert!(names(&folder.path("tmp")).iter().all(|name| name.starts_with("hetero-examination-")));
}

/// Ends runs in a phase.
fn strike_a_run(name: &str, extra: &[&str], step: &str, next: Option<&str>, cold: bool) {
    let folder = Folder::new("run");
    let expected = expected(1);
    let is_new = |name: &str, bytes: &[u8]| {
        let expected = expected.iter().find(|(file, _)| name.ends_with(&format!("/{file}"))).unwrap();
        bytes.starts_with(b"\x93NUMPY") && elements(bytes) == elements(&expected.1)
    };
    let reset = || {
        if cold {
            let _ = std::fs::remove_dir_all(folder.path("kept"));
        }
    };
    let files = [("out/y.npy", b"the old y".to_vec()), ("out/wide.npy", b"the old wide".repeat(1 << 16))];
    let arguments = [&RUN[..], extra].concat();
    let phase =
        Phase { name, arguments: &arguments, step, next, code: 0, files: &files, is_new: &is_new, reset: &reset };
    strike(&folder, &phase);
    // What was compiled is one file, whatever was killed as it was written.
    let kept = names(&folder.path("kept"));
    assert!(kept.len() == 1 && kept[0].ends_with(".bin"), "{kept:?}");
    assert_eq!(names(&folder.path("out")), ["wide.npy", "y.npy"]);
}

#[test]
fn a_run_may_end_while_it_reads_the_model() {
    strike_a_run("reading the model", &[], "reading the model", Some("planning"), false);
}

#[test]
fn a_run_may_end_while_it_plans() {
    strike_a_run("planning", &[], "planning", Some("compiling"), false);
}

#[test]
fn a_run_may_end_while_it_compiles_and_keeps_the_program() {
    strike_a_run("compiling", &[], "compiling", Some("running"), true);
}

#[test]
fn a_run_may_end_while_it_takes_the_program_from_the_cache() {
    strike_a_run("taking from the cache", &[], "compiling", Some("running"), false);
}

#[test]
fn a_run_may_end_while_it_runs() {
    strike_a_run("running", &[], "running", Some("writing outputs"), false);
}

#[test]
fn a_run_may_end_while_it_writes_outputs() {
    strike_a_run("writing outputs", &[], "writing outputs", None, false);
}

/// A driver takes seconds to compile, so only a night has time for it.
#[test]
fn a_run_may_end_while_a_driver_compiles_and_kernels_are_kept() {
    let folder = Folder::new("kernels");
    let run = "--progress run m.onnx --device opencl:0 --unexamined --input x=new.npy --output out";
    let arguments: Vec<&str> = run.split(' ').collect();
    if std::env::var_os("HETERO_KILLS").is_none() {
        println!("skipped without HETERO_KILLS");
        return;
    }
    let first = folder.run(&arguments);
    if first.status.code() == Some(2) {
        println!("skipped without an OpenCL device: {}", said(&first));
        return;
    }
    let expected = expected(1);
    let kept = folder.path("home/.cache/hetero/opencl");
    let phase = Phase {
        name: "compiling by a driver",
        arguments: &arguments,
        step: "compiling",
        next: Some("running"),
        code: 0,
        files: &[("out/y.npy", b"the old y".to_vec())],
        is_new: &|_, bytes| bytes.starts_with(b"\x93NUMPY") && elements(bytes) == elements(&expected[0].1),
        reset: &|| {
            let _ = std::fs::remove_dir_all(&kept);
        },
    };
    strike_often(&folder, &phase, wanted().div_ceil(5));
    let kept = names(&kept);
    assert!(!kept.is_empty() && kept.iter().all(|name| name.ends_with(".bin")), "{kept:?}");
}

#[test]
fn a_stream_may_end_at_any_time() {
    let folder = Folder::new("stream");
    let arguments: Vec<&str> = RUN[..11].iter().copied().chain(["--stream", "20", "--depth", "3"]).collect();
    let expected = expected(1);
    let is_new = |name: &str, bytes: &[u8]| {
        let expected = expected.iter().find(|(file, _)| name.ends_with(&format!("/{file}"))).unwrap();
        bytes.starts_with(b"\x93NUMPY") && elements(bytes) == elements(&expected.1)
    };
    let files = [("out/y.npy", b"the old y".to_vec()), ("out/wide.npy", b"the old wide".to_vec())];
    let (step, next) = ("streaming", Some("writing outputs"));
    let name = "streaming";
    let phase =
        Phase { name, arguments: &arguments, step, next, code: 0, files: &files, is_new: &is_new, reset: &|| () };
    strike(&folder, &phase);
}

#[test]
fn a_plan_is_written_as_a_whole_or_not_at_all() {
    let folder = Folder::new("plan");
    let arguments = ["--progress", "plan", "m.onnx", "--device", "cpu:0", "-o", "plan.json"];
    assert!(folder.run(&arguments).status.success());
    let new = folder.read("plan.json");
    let files = [("plan.json", b"the old plan".to_vec())];
    let phase = Phase {
        name: "writing a plan",
        arguments: &arguments,
        step: "writing plan.json",
        next: None,
        code: 0,
        files: &files,
        is_new: &|_, bytes| bytes == new,
        reset: &|| (),
    };
    strike(&folder, &phase);
    let run = ["run", "m.onnx", "--device", "cpu:0", "--input", "x=new.npy", "--plan", "plan.json"];
    assert!(folder.run(&run).status.success());
}

#[test]
fn a_profile_is_written_as_a_whole_or_not_at_all() {
    let folder = Folder::new("profile");
    let profile = "home/.cache/hetero/profile.json";
    let made = folder.run(&["calibrate", "--device", "cpu:0", "--seconds", "1", "--threads", "1"]);
    assert!(made.status.success(), "{}", said(&made));
    // A profile of many devices takes a while to write, and models are measured in a tenth of a
    // second where the operators are known.
    let mut old: serde_json::Value = serde_json::from_slice(&folder.read(profile)).unwrap();
    let devices = old["devices"].as_array_mut().unwrap();
    for number in 0..60 {
        let mut other = devices[0].clone();
        other["id"] = format!("wgpu:{number}").into();
        devices.push(other);
    }
    let old = serde_json::to_vec(&old).unwrap();
    let arguments = ["--progress", "calibrate", "m.onnx", "--device", "cpu:0", "--seconds", "1", "--threads", "1"];
    let files = [(profile, old.clone())];
    let is_new = |name: &str, bytes: &[u8]| {
        bytes != old && Profile::load(&folder.path(name)).is_ok_and(|profile| profile.devices.len() == 61)
    };
    let phase = Phase {
        name: "writing a profile",
        arguments: &arguments,
        step: "writing the profile",
        next: None,
        code: 0,
        files: &files,
        is_new: &is_new,
        reset: &|| (),
    };
    strike(&folder, &phase);
    assert_eq!(names(&folder.path("home/.cache/hetero")), ["profile.json"]);
}

#[test]
fn an_examination_may_end_at_any_time_and_takes_its_process_with_it() {
    let folder = Folder::new("examination");
    let arguments = ["--progress", "run", "m.onnx", "--device", "cpu:0", "--random", "1", "--inject", "cpu:0=wrong"];
    let examined = folder.path("home/.cache/hetero/examined");
    let phase = Phase {
        name: "examining",
        arguments: &arguments,
        step: "opening cpu:0",
        next: None,
        code: 1,
        files: &[],
        is_new: &|_, _| true,
        reset: &|| {
            let _ = std::fs::remove_dir_all(&examined);
        },
    };
    strike(&folder, &phase);
    // Whatever was killed, the verdict is the right one, and it is kept.
    let kept = names(&examined);
    assert!(kept.len() == 1 && kept[0].ends_with(".verdict"), "{kept:?}");
    let again = folder.run(&arguments);
    assert!(again.status.code() == Some(1) && said(&again).contains("wrong results: "), "{}", said(&again));
}

#[test]
fn an_interrupt_ends_a_command_inside_a_driver_that_hangs() {
    let folder = Folder::new("hang");
    for (fault, step) in [("hang-compile", "opening cpu:0"), ("hang:0", "running")] {
        let fault = format!("cpu:0={fault}");
        let arguments = ["--progress", "run", "m.onnx", "--device", "cpu:0", "--random", "1", "--inject", &fault];
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let mut started = Started::new(&mut folder.command(&arguments));
            assert!(started.hear(step), "{fault}");
            std::thread::sleep(Duration::from_millis(300));
            started.signal(signal);
            let (status, took) = started.wait();
            assert_eq!(status.signal(), Some(signal.as_raw()), "{fault}");
            assert!(took < SOON, "{fault}: {took:?}");
            no_process_is_left(&folder);
        }
    }
}
