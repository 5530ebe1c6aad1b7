//! `hetero`: inspect, plan and run ONNX models across chips of different kinds.
//!
//! ```text
//! hetero devices
//! hetero inspect model.onnx
//! hetero run model.onnx --input x=x.npy --output out
//! ```
//!
//! Exit codes: 0 done, 1 the run failed, 2 bad usage, 141 nobody reads the output any more.
//! `--json` makes every command print one JSON document.

#![forbid(unsafe_code)]
mod arguments;
mod assign;
mod calibrate;
mod conformance;
mod demo;
mod devices;
mod failure;
mod inspect;
mod limits;
mod outfile;
mod output;
mod plan;
mod planning;
mod profile;
mod progress;
mod report;
mod run;
mod tensors;

use std::ffi::OsString;
use std::process::ExitCode;

use arguments::{Arguments, Command};
use failure::Result;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    // A child that examines a driver answers on descriptor 1, so it does so before that moves.
    if words.get(1).is_some_and(|word| word == "examine")
        && let Ok(Arguments { command: Command::Examine(options), .. }) = Arguments::read(words.clone())
    {
        return devices::answer(&options);
    }
    output::start().and_then(|()| command(words)).unwrap_or_else(failure::Failure::report)
}

/// Does what the arguments ask for.
fn command(words: Vec<OsString>) -> Result<ExitCode> {
    let arguments = match Arguments::read(words) {
        Ok(arguments) => arguments,
        // This is either bad usage or a question for help.
        Err(error) => return output::usage(&error),
    };
    if arguments.progress {
        progress::tell_steps();
    }
    if let Some(deadline) = arguments.deadline {
        limits::watch(deadline);
    }
    match &arguments.command {
        Command::Devices(options) => devices::list(options),
        Command::Check(options) => devices::check(options),
        Command::Inspect(options) => inspect::inspect(options),
        Command::Plan(options) => plan::plan(options),
        Command::Run(options) => run::run(options),
        Command::Profile(options) => profile::profile(options),
        Command::Conformance(options) => match &options.command {
            None => conformance::generated(options),
            Some(arguments::ConformanceCommand::Onnx(options)) => conformance::standard::standard(options),
            Some(arguments::ConformanceCommand::Operators(options)) => conformance::operators::table(options),
            Some(arguments::ConformanceCommand::Model(options)) => conformance::model(options),
            Some(arguments::ConformanceCommand::Save(options)) => conformance::save(options),
        },
        Command::Calibrate(options) => calibrate::calibrate(options),
        Command::Assign(options) => assign::assign(options),
        Command::Demo(options) => demo::demo(options),
        Command::Examine(_) => {
            Err(failure::Failure::usage("`examine` is for programs", "`hetero check` examines the devices"))
        }
    }
    .map(|()| ExitCode::SUCCESS)
}
