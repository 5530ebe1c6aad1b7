//! `hetero`: inspect, plan and run ONNX models across chips of different kinds.
//!
//! ```text
//! hetero devices
//! hetero inspect model.onnx
//! hetero run model.onnx --input x=x.npy --output out
//! ```
//!
//! Exit codes: 0 done, 1 the run failed, 2 bad usage.
//! `--json` makes every command print one JSON document.

#![forbid(unsafe_code)]
// A command line prints its results.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod arguments;
mod assign;
mod calibrate;
mod conformance;
mod demo;
mod devices;
mod failure;
mod inspect;
mod limits;
mod plan;
mod planning;
mod profile;
mod progress;
mod report;
mod run;
mod tensors;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    // Clap itself ends with 2 on bad usage, and with 0 on --help.
    let arguments = Arguments::parse();
    if let Command::Examine(options) = &arguments.command {
        return devices::answer(options);
    }
    if let Some(deadline) = arguments.deadline {
        limits::watch(deadline);
    }
    let outcome = match &arguments.command {
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
        Command::Examine(_) => Ok(()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.exit_code();
            eprintln!("{:?}", miette::Report::new(failure));
            ExitCode::from(code)
        }
    }
}
