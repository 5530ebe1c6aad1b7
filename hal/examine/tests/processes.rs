//! Examinations in processes of their own, of drivers that lie, crash, hang and talk.
//! Each test starts itself again, as the program that examines.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hetero_cpu::CpuDriver;
use hetero_examine::{Examination, FailureKind, Verdict, answer_examination, is_examination};
use hetero_hal::{Device, DeviceInfo, Driver, OpenOptions, Result, Unavailable};
use hetero_layers::{Fault, Faulty};

/// A time that drivers without faults never need.
const PLENTY: Duration = Duration::from_secs(300);
/// A time for drivers that hang.
const LITTLE: Duration = Duration::from_secs(3);

/// Examines the first device of a driver by this test, or ends the process with the answer where
/// it was started for that.
fn verdict(test: &str, driver: Arc<dyn Driver>, limit: Duration) -> Verdict {
    if is_examination() {
        let _ = answer_examination(&[driver]);
        std::process::exit(0);
    }
    examine(&by(test).within(limit), driver)
}

fn by(test: &str) -> Examination {
    Examination::here().kept_in(None).by(std::env::current_exe().unwrap(), [test, "--exact", "--nocapture"])
}

fn examine(examination: &Examination, driver: Arc<dyn Driver>) -> Verdict {
    let info = driver.probe().unwrap().remove(0);
    examination.examine(&driver, &info, &OpenOptions::default())
}

fn faulty(fault: Fault) -> Arc<dyn Driver> {
    Arc::new(Faulty::over(Arc::new(CpuDriver)).with(0, fault))
}

fn failure(verdict: Verdict) -> (FailureKind, String, String) {
    let failure = verdict.failure.unwrap();
    (failure.kind, failure.detail, failure.said)
}

#[test]
fn a_driver_that_computes_rightly_passes() {
    let verdict = verdict("a_driver_that_computes_rightly_passes", Arc::new(CpuDriver), PLENTY);
    assert_eq!((verdict.failure.as_ref(), &verdict.refused[..]), (None, &[][..]));
    for name in ["Conv 3×3", "MatMul", "Softmax", "Transpose", "Mul of i32"] {
        assert!(verdict.passed.iter().any(|passed| passed == name), "{name}: {verdict:?}");
    }
}

#[test]
fn wrong_results_are_found_and_named() {
    let (kind, detail, _) = failure(verdict("wrong_results_are_found_and_named", faulty(Fault::Wrong), PLENTY));
    assert_eq!(kind, FailureKind::Wrong);
    assert!(detail.contains("normalised error") && detail.contains("allowed 1e-6"), "{detail}");
    assert!(detail.contains("wrong too: ") && detail.contains("Conv 3×3"), "{detail}");
}

#[test]
fn a_compiler_that_crashes_takes_only_the_process_of_the_examination_with_it() {
    let test = "a_compiler_that_crashes_takes_only_the_process_of_the_examination_with_it";
    let (kind, detail, _) = failure(verdict(test, faulty(Fault::CrashCompile), PLENTY));
    assert_eq!(kind, FailureKind::Crashed);
    #[cfg(unix)]
    assert_eq!(detail, "signal 6 (SIGABRT) at: Relu");
    #[cfg(not(unix))]
    assert!(detail.ends_with("at: Relu"), "{detail}");
}

#[test]
fn a_run_that_crashes_is_a_failure_too() {
    let (kind, detail, _) = failure(verdict("a_run_that_crashes_is_a_failure_too", faulty(Fault::CrashRun), PLENTY));
    assert!(kind == FailureKind::Crashed && detail.ends_with("at: Relu"), "{detail}");
}

#[test]
fn a_compiler_that_hangs_is_given_up() {
    let (kind, detail, _) = failure(verdict("a_compiler_that_hangs_is_given_up", faulty(Fault::HangCompile), LITTLE));
    assert_eq!((kind, &*detail), (FailureKind::Hung, "Relu did not end within 3 s"));
}

#[test]
fn a_run_that_hangs_is_given_up() {
    let (kind, detail, _) = failure(verdict("a_run_that_hangs_is_given_up", faulty(Fault::HangRun), LITTLE));
    assert_eq!((kind, &*detail), (FailureKind::Hung, "Relu did not end within 3 s"));
    // In this process, the thread is left alone; what else the process does goes on.
    let (kind, ..) = failure(examine(&Examination::here().kept_in(None).within(LITTLE), faulty(Fault::HangCompile)));
    assert_eq!(kind, FailureKind::Hung);
}

/// A driver that does something of its own when a device is opened.
struct Opening<F>(Arc<dyn Driver>, F);

impl<F: Fn() + Send + Sync> Driver for Opening<F> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn probe(&self) -> Result<Vec<DeviceInfo>, Unavailable> {
        let mut infos = self.0.probe()?;
        infos.iter_mut().for_each(|info| info.identity += std::any::type_name::<F>());
        Ok(infos)
    }

    fn open(&self, ordinal: usize, options: &OpenOptions) -> Result<Arc<dyn Device>> {
        (self.1)();
        self.0.open(ordinal, options)
    }
}

#[test]
fn a_driver_that_ends_the_process_is_a_failure_and_its_words_are_kept() {
    let quit = || {
        let _ = std::io::stderr().write_all(b"Unknown host CPU\n\x1b[31mgood bye");
        let _ = std::io::stdout().write_all(b" for ever\n");
        std::process::exit(3);
    };
    let driver: Arc<dyn Driver> = Arc::new(Opening(Arc::new(CpuDriver), quit));
    let test = "a_driver_that_ends_the_process_is_a_failure_and_its_words_are_kept";
    let (kind, detail, said) = failure(verdict(test, driver, PLENTY));
    assert_eq!(
        (kind, &*detail),
        (FailureKind::Crashed, "it ended the process with exit code 3 at: opening the device")
    );
    assert_eq!(said, "Unknown host CPU / \\u{1b}[31mgood bye for ever");
}

#[test]
fn a_driver_that_never_stops_talking_is_examined_all_the_same() {
    let talk = || {
        std::thread::spawn(|| while std::io::stderr().write_all(&[b'x'; 1000]).is_ok() {});
    };
    let driver: Arc<dyn Driver> = Arc::new(Opening(faulty(Fault::Wrong), talk));
    let test = "a_driver_that_never_stops_talking_is_examined_all_the_same";
    let (kind, _, said) = failure(verdict(test, driver, PLENTY));
    assert!(kind == FailureKind::Wrong && said.chars().count() < 500, "{kind}: {said}");
}

#[test]
fn a_program_that_is_no_examiner_or_knows_no_such_device_leaves_the_examination_to_this_process() {
    let test = "a_program_that_is_no_examiner_or_knows_no_such_device_leaves_the_examination_to_this_process";
    if is_examination() {
        let _ = answer_examination(&[faulty(Fault::CrashCompile)]);
        return;
    }
    let opened = Arc::new(AtomicUsize::new(0));
    let (inner, count): (Arc<dyn Driver>, _) = (Arc::new(CpuDriver), opened.clone());
    let driver: Arc<dyn Driver> = Arc::new(Opening(inner, move || {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    let nobody = Examination::here().kept_in(None).anew();
    let none: [&str; 0] = [];
    let here = std::env::current_exe().unwrap();
    let examiners =
        [nobody.clone().by("/there/is/no/such/program", none), nobody.by(here, ["--list"]), by(test).anew()];
    for (number, examination) in examiners.iter().enumerate() {
        let verdict = examine(examination, driver.clone());
        assert!(verdict.failure.is_none() && !verdict.passed.is_empty(), "{verdict}");
        assert_eq!(opened.load(Ordering::Relaxed), number + 1);
    }
}

#[test]
fn compilers_work_anew_and_leave_nothing_behind() {
    let test = "compilers_work_anew_and_leave_nothing_behind";
    let keep = || {
        let folder = PathBuf::from(std::env::var_os("XDG_CACHE_HOME").unwrap());
        let count = std::fs::read_dir(&folder).unwrap().count();
        std::fs::create_dir(folder.join("kernels")).unwrap();
        std::fs::write(folder.join("kernels").join("binary"), "code").unwrap();
        let _ = std::io::stderr().write_all(format!("{count} files in {}\n", folder.display()).as_bytes());
    };
    let (kind, _, said) = failure(verdict(test, Arc::new(Opening(faulty(Fault::Wrong), keep)), PLENTY));
    assert_eq!(kind, FailureKind::Wrong);
    let folder = said.strip_prefix("0 files in ").unwrap_or_else(|| panic!("{said}"));
    assert!(!PathBuf::from(folder).exists(), "{folder}");
}

/// The variable by which a test tells the process that it starts what to do.
const INSIDE: &str = "HETERO_TEST_EXAMINATION";

fn inside(test: &str, value: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(INSIDE, value);
    command
}

#[test]
fn a_later_process_takes_the_verdict_of_an_earlier_one() {
    let test = "a_later_process_takes_the_verdict_of_an_earlier_one";
    if let Some(folder) = std::env::var_os(INSIDE).map(PathBuf::from) {
        let opened = Arc::new(AtomicUsize::new(0));
        let (inner, count): (Arc<dyn Driver>, _) = (faulty(Fault::Wrong), opened.clone());
        let driver: Arc<dyn Driver> = Arc::new(Opening(inner, move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        let examination = Examination::here().kept_in(Some(folder));
        for _ in 0..3 {
            assert_eq!(failure(examine(&examination, driver.clone())).0, FailureKind::Wrong);
        }
        eprintln!("opened {} times", opened.load(Ordering::Relaxed));
        return;
    }
    let folder = std::env::temp_dir().join(format!("hetero-later-{}", std::process::id()));
    let said = || {
        let output = inside(test, &folder.to_string_lossy()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said().contains("opened 1 times"));
    assert!(said().contains("opened 0 times"));
    // A damaged file counts as none.
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    std::fs::write(file, "{}").unwrap();
    assert!(said().contains("opened 1 times"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn the_examining_process_ends_with_the_one_that_asked() {
    let test = "the_examining_process_ends_with_the_one_that_asked";
    if is_examination() {
        let _ = std::fs::write(std::env::var_os(INSIDE).unwrap(), std::process::id().to_string());
        let _ = answer_examination(&[faulty(Fault::HangRun)]);
        return;
    }
    if std::env::var_os(INSIDE).is_some() {
        let _ = verdict(test, faulty(Fault::HangRun), PLENTY);
        return;
    }
    let file = std::env::temp_dir().join(format!("hetero-asker-{}", std::process::id()));
    let mut asker = inside(test, &file.to_string_lossy()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let soon = |is_so: &mut dyn FnMut() -> bool| {
        while !is_so() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let mut id = String::new();
    soon(&mut || {
        id = std::fs::read_to_string(&file).unwrap_or_default();
        !id.is_empty()
    });
    asker.kill().unwrap();
    asker.wait().unwrap();
    // A process that has ended and that nobody waited for is a zombie.
    let gone = |text: String| text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    soon(&mut || std::fs::read_to_string(format!("/proc/{id}/stat")).map_or(true, gone));
    std::fs::remove_file(&file).unwrap();
}
