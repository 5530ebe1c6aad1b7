//! Examinations of devices: this program is the one that examines, in a process of its own.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hetero::hal::{DeviceId, DeviceInfo, Driver, OpenOptions, Unavailable};
use hetero::{Builder, Examination, HeteroEngine, Verdict, builtin_drivers};
use hetero_layers::{Fault, Faulty};
use serde_json::{Value, json};

use crate::arguments::ExamineOptions;
use crate::output::note;

/// Returns the builder of an engine whose devices are examined by this program, unless the user
/// does not want that; with faults, drivers have them.
pub(crate) fn builder(unexamined: bool, faults: &[(DeviceId, Fault)]) -> Builder {
    let builder = HeteroEngine::builder().examination(examination(unexamined, faults));
    faulty(faults).into_iter().fold(builder, Builder::driver)
}

fn examination(unexamined: bool, faults: &[(DeviceId, Fault)]) -> Examination {
    // The faults that are events of one opened device happen in the run, not in the examination.
    let standing = faults.iter().filter(|(_, fault)| fault.is_standing());
    let injected = standing.flat_map(|(id, fault)| ["--inject".to_owned(), format!("{id}={fault}")]);
    match std::env::current_exe() {
        _ if unexamined => Examination::off(),
        Ok(program) => Examination::default().by(program, ["examine".to_owned()].into_iter().chain(injected)),
        Err(_) => Examination::default(),
    }
}

/// Returns the drivers that have faults.
fn faulty(faults: &[(DeviceId, Fault)]) -> Vec<Arc<dyn Driver>> {
    let mut drivers: Vec<Arc<dyn Driver>> = Vec::new();
    for driver in builtin_drivers() {
        let of: Vec<_> = faults.iter().filter(|(id, _)| id.driver() == driver.name()).collect();
        if !of.is_empty() {
            let add = |layer: Faulty, (id, fault): &(DeviceId, Fault)| layer.with(id.ordinal(), *fault);
            drivers.push(Arc::new(of.into_iter().fold(Faulty::over(driver), add)));
        }
    }
    drivers
}

/// Says what went wrong with examinations, and has not been said.
pub(super) fn warn_of_troubles() {
    Examination::troubles().iter().for_each(|trouble| note!("{trouble}"));
}

/// Examines the device that another process asks for.
pub(crate) fn answer(options: &ExamineOptions) -> ExitCode {
    let mut drivers = faulty(&options.faults);
    drivers.extend(builtin_drivers());
    hetero::answer_examination(&drivers)
}

/// Returns how long ago a device was examined, in words.
fn ago(verdict: &Verdict) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    match now.saturating_sub(verdict.examined) / 60 {
        0 => "just now".to_owned(),
        minutes @ 1..120 => format!("{minutes} minutes ago"),
        minutes @ 120..2880 => format!("{} hours ago", minutes / 60),
        minutes => format!("{} days ago", minutes / 1440),
    }
}

/// The examination of a device, as far as there is one.
pub(super) struct Examined(Option<Verdict>, Option<Unavailable>);

impl Examined {
    /// Examines a device, or takes a verdict that holds, unless it is to be examined `anew`.
    pub(super) fn new(engine: &HeteroEngine, info: &DeviceInfo, anew: bool) -> Examined {
        let examination = engine.examination().clone();
        let examination = if anew { examination.anew() } else { examination };
        let verdict = engine.examine(&examination, &info.id, &OpenOptions::default());
        let unavailable = verdict.as_ref().and_then(|verdict| verdict.unavailable(info));
        Examined(verdict, unavailable)
    }

    /// Returns the reason why the device is not to be used.
    pub(super) fn unavailable(&self) -> Option<&Unavailable> {
        self.1.as_ref()
    }

    /// Returns what is to be said of the examination, in lines.
    pub(super) fn lines(&self) -> Vec<String> {
        match (&self.0, &self.1) {
            (None, _) => vec![],
            (Some(verdict), Some(why)) => {
                vec![
                    format!("unavailable: {}", why.detail),
                    format!("remedy: {}", why.remedy),
                    format!("examined {} in {:.1} s", ago(verdict), verdict.seconds),
                ]
            }
            (Some(verdict), None) => vec![format!("examined {} in {:.1} s: {verdict}", ago(verdict), verdict.seconds)],
        }
    }

    pub(super) fn json(&self) -> Value {
        let Some(verdict) = &self.0 else { return Value::Null };
        json!({
            "passed": verdict.failure.is_none(),
            "examined": verdict.examined,
            "seconds": verdict.seconds,
            "right": verdict.passed,
            "refused": verdict.refused,
            "reason": self.1.as_ref().map(|why| format!("{}: {}", why.reason, why.detail)),
            "remedy": self.1.as_ref().map(|why| &why.remedy),
        })
    }
}
