//! How devices are examined before they are used.

use std::io::Read;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hetero_hal::{DeviceInfo, Driver, OpenOptions};
use hetero_kit::file_identity;

use crate::child::{self, Examiner, NotExamined};
use crate::verdict::{FailureKind, Verdict};
use crate::wire::{Request, options};
use crate::{exam, records, serve, surroundings};

/// The time that an examination may take, unless somebody says otherwise.
/// The slowest driver of hetero's tests takes about a tenth of it.
const LIMIT: Duration = Duration::from_secs(60);
/// The variable that turns examinations off, by the value `off`.
const SWITCH: &str = "HETERO_EXAMINE";
/// The variable that names a program, such as `hetero`, which examines devices for all programs.
const PROGRAM: &str = "HETERO_EXAMINER";

/// How devices are examined before they are used: by which program, within which time, and where
/// verdicts are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examination {
    on: bool,
    /// The program that examines; `None` where this process does.
    examiner: Option<Examiner>,
    limit: Duration,
    folder: Option<PathBuf>,
    anew: bool,
}

impl Default for Examination {
    /// Returns what the environment says.
    ///
    /// `HETERO_EXAMINE=off` turns examinations off, which is meant for people in a hurry and for
    /// those who look for the fault of a driver.
    /// `HETERO_EXAMINER` is the path of the program `hetero`, which then examines in a process of
    /// its own; without it, this process examines.
    /// Verdicts are kept in `hetero/examined` in the user's folder for caches, where there is one.
    fn default() -> Self {
        let here = Examination::here();
        if std::env::var_os(SWITCH).is_some_and(|value| value == "off") || serve::is_examination() {
            return Examination::off();
        }
        match std::env::var_os(PROGRAM).filter(|program| !program.is_empty()) {
            Some(program) => here.by(program, ["examine"]),
            None => here,
        }
    }
}

impl Examination {
    /// Returns no examination: devices are used as they are.
    #[must_use]
    pub fn off() -> Self {
        Examination { on: false, ..Examination::here() }
    }

    /// Returns an examination in this process, on a thread that is given up where it does not end
    /// in time.
    /// A driver that crashes takes the process with it.
    #[must_use]
    pub fn here() -> Self {
        let folder = hetero_kit::cache_folder().map(|folder| folder.join("examined"));
        Examination { on: true, examiner: None, limit: LIMIT, folder, anew: false }
    }

    /// Returns an examination by a program, which may be this one.
    /// The program is to call [`answer_examination`](crate::answer_examination) with the same
    /// drivers.
    /// Where it cannot be started, or does not know the device, this process examines.
    #[must_use]
    pub fn by<A: Into<String>>(self, program: impl Into<PathBuf>, arguments: impl IntoIterator<Item = A>) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Examination { examiner: Some(Examiner { program: program.into(), arguments }), ..self }
    }

    /// Returns the same examination with a limit of its time; it is a minute otherwise.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        Examination { limit, ..self }
    }

    /// Returns the same examination with its verdicts kept in this folder, or only in this process.
    /// Nobody else should be able to write the folder, as a verdict there is believed.
    #[must_use]
    pub fn kept_in(self, folder: Option<PathBuf>) -> Self {
        Examination { folder, ..self }
    }

    /// Returns the same examination, which examines also where there is a verdict.
    #[must_use]
    pub fn anew(self) -> Self {
        Examination { anew: true, ..self }
    }

    /// Returns what went wrong with examinations of this process since the last call, each in a
    /// line: verdicts that cannot be kept, and devices that could not be examined.
    #[must_use]
    pub fn troubles() -> Vec<String> {
        records::troubles()
    }

    /// Tells whether devices are examined.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Examines a device of a driver, as it would be opened with these options, or returns the
    /// verdict of an earlier examination where all that it depends on is the same.
    ///
    /// These are the driver's id, name and version of the device, its [`DeviceInfo::identity`], the
    /// options that only the driver knows, the host's processor, and hetero's version.
    /// A verdict with a failure holds for a day, and another one without end.
    /// A failure is not kept where the system gives this process few descriptors or bounds its
    /// memory, because it may have come of that.
    #[must_use]
    pub fn examine(&self, driver: &Arc<dyn Driver>, info: &DeviceInfo, options: &OpenOptions) -> Verdict {
        self.of(driver, info, options, "")
    }

    /// Does what [`Examination::examine`] does, for a driver whose code is in this very program: a
    /// verdict is of this program's file.
    #[must_use]
    pub fn examine_own(&self, driver: &Arc<dyn Driver>, info: &DeviceInfo, options: &OpenOptions) -> Verdict {
        static PROGRAM: OnceLock<String> = OnceLock::new();
        let program =
            PROGRAM.get_or_init(|| std::env::current_exe().map(|path| file_identity(&path)).unwrap_or_default());
        self.of(driver, info, options, program)
    }

    fn of(&self, driver: &Arc<dyn Driver>, info: &DeviceInfo, options: &OpenOptions, program: &str) -> Verdict {
        /// One examination at a time: two would take each other's time.
        static ONE: Mutex<()> = Mutex::new(());
        let of = describe(info, options, program);
        let folder = self.folder.as_deref();
        let known = || records::find(folder, &of).filter(|_| !self.anew);
        if let Some(verdict) = known() {
            return verdict;
        }
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have examined the device meanwhile.
        if let Some(verdict) = known() {
            return verdict;
        }
        let request = Request::new(info, options, self.limit);
        // A program that does not know that it is to examine starts no further one.
        let examiner = self.examiner.as_ref().filter(|_| !serve::is_examination());
        let verdict = match examiner.map(|examiner| child::examine(examiner, &request)) {
            Some(Ok(verdict)) => verdict,
            // A driver that gets nothing from the system may crash, which is not for this process.
            Some(Err(NotExamined::NotStarted(error))) => {
                let reason = format!("no process for the examination: {error}");
                records::complain(format!("{} is not examined: {reason}", info.id));
                Verdict::unknown(reason)
            }
            Some(Err(NotExamined::NoExaminer)) | None => {
                in_this_process(driver, info.id.ordinal(), options, self.limit)
            }
        };
        // What a driver cannot do here it may do elsewhere.
        if folder.is_none() && hetero_kit::cache_folder().is_none() {
            let reason = "neither XDG_CACHE_HOME nor HOME names a folder for caches";
            records::complain(format!("{}: {reason}", records::UNKEPT));
        }
        let lasts = verdict.failure.is_none() || !surroundings::are_narrow();
        records::keep(folder.filter(|_| lasts), &of, &verdict);
        verdict
    }
}

/// Returns all that a verdict depends on.
fn describe(info: &DeviceInfo, options: &OpenOptions, program: &str) -> String {
    let extra: Vec<String> = options.extra.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    [
        concat!("hetero ", env!("CARGO_PKG_VERSION")),
        &info.id.to_string(),
        &info.name,
        &info.vendor,
        &info.driver_version,
        &info.identity,
        processor(),
        &extra.concat(),
        program,
    ]
    .join("\n")
}

/// Returns what the system says of the host's first processor and does not change while it runs.
fn processor() -> &'static str {
    const LASTING: [&str; 12] = [
        "vendor_id",
        "cpu family",
        "model",
        "model name",
        "stepping",
        "microcode",
        "flags",
        "Features",
        "CPU implementer",
        "CPU architecture",
        "CPU part",
        "CPU revision",
    ];
    static PROCESSOR: OnceLock<String> = OnceLock::new();
    PROCESSOR.get_or_init(|| {
        // The file has a part for each processor, and its whole takes the system a while.
        let mut bytes = Vec::new();
        let file = std::fs::File::open("/proc/cpuinfo");
        let _ = file.and_then(|file| file.take(4096).read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes);
        let first = text.split("\n\n").next().unwrap_or_default();
        let lasts = |line: &&str| LASTING.contains(&line.split(':').next().unwrap_or_default().trim());
        let lines: Vec<&str> = first.lines().filter(lasts).collect();
        format!("{} {}\n{}", std::env::consts::OS, std::env::consts::ARCH, lines.join("\n"))
    })
}

/// Examines a device on a thread of this process, which is left alone where it does not end.
fn in_this_process(driver: &Arc<dyn Driver>, ordinal: usize, open: &OpenOptions, limit: Duration) -> Verdict {
    let began = Instant::now();
    let asked = Arc::new(Mutex::new(String::from("opening the device")));
    let (told, found) = channel();
    let (driver, open, asks) = (driver.clone(), options(&open.extra), asked.clone());
    let work = move || {
        let mut about = |question: &str| question.clone_into(&mut asks.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = told.send(exam::examine(&*driver, ordinal, &open, limit, &mut about));
    };
    if let Err(error) = std::thread::Builder::new().name("examination".to_owned()).spawn(work) {
        return Verdict::unknown(format!("no thread for the examination: {error}"));
    }
    let verdict = found.recv_timeout(limit);
    let asked = asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let verdict = match verdict {
        Ok(verdict) => verdict,
        Err(RecvTimeoutError::Timeout) => exam::late(&asked, limit),
        Err(RecvTimeoutError::Disconnected) => {
            Verdict::failed(FailureKind::Crashed, format!("it panicked at: {asked}"))
        }
    };
    Verdict { seconds: began.elapsed().as_secs_f64(), ..verdict }
}

#[cfg(test)]
mod tests {
    use hetero_hal::{DeviceId, DeviceKind};

    use super::*;

    #[test]
    fn a_verdict_is_about_everything_that_the_code_depends_on() {
        let info = DeviceInfo::new(DeviceId::new("x", 0), DeviceKind::Gpu, "Chip");
        let change = |change: fn(&mut DeviceInfo)| {
            let mut info = info.clone();
            change(&mut info);
            info
        };
        let plain = OpenOptions::default();
        let extra = OpenOptions { extra: vec![("cache".into(), "off".into())], ..OpenOptions::default() };
        let described = [
            describe(&info, &plain, ""),
            describe(&change(|info| info.id = DeviceId::new("x", 1)), &plain, ""),
            describe(&change(|info| info.name = "Other".into()), &plain, ""),
            describe(&change(|info| info.vendor = "Other".into()), &plain, ""),
            describe(&change(|info| info.driver_version = "2".into()), &plain, ""),
            describe(&change(|info| info.identity = "CL_CONFIG_CPU_TARGET_ARCH=skx".into()), &plain, ""),
            describe(&info, &extra, ""),
            describe(&info, &plain, "program 1 2"),
        ];
        for (position, one) in described.iter().enumerate() {
            assert!(one.contains(env!("CARGO_PKG_VERSION")) && one.contains(std::env::consts::ARCH));
            assert!(described.iter().skip(position + 1).all(|other| other != one), "{one}");
        }
        // How much the caller wants to use changes no code.
        let few = OpenOptions { threads: Some(1), memory_limit: Some(1), ..OpenOptions::default() };
        assert_eq!(describe(&info, &few, ""), described[0]);
    }
}
