//! Real device software for machines without accelerators: OpenCL and Vulkan on the processor, an
//! FPGA's emulator, and CUDA's compilers.
//!
//! Debian packages are installed for the whole system, and wheels into the cache.
//! An OpenCL loader knows a driver by an `.icd` file, which names the driver's library.
//! The cache's `.icd` files are in `drivers/icd`, and [`Workspace::command`] points the loader
//! there.
//! As root they are registered in the system's folder too, so that a plain `hetero devices` finds
//! the drivers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::setup::{apt, environment, sudo};
use crate::workspace::{Result, Workspace, succeeds};

/// The OpenCL loader, PoCL, the Vulkan loader and lavapipe.
/// `mesa-opencl-icd` is left out, because a driver in it that finds no GPU crashes its caller.
const DEBIAN: [&str; 4] = ["ocl-icd-libopencl1", "pocl-opencl-icd", "libvulkan1", "mesa-vulkan-drivers"];
/// Intel's OpenCL for its processors, and the emulator of its FPGAs.
/// Without the compiler's run-time library neither of them shows, and nothing says why.
const INTEL: [&str; 3] =
    ["intel-opencl-rt==2025.0.5", "intel-opencl-fpga-emu-rt==2025.0.5", "intel-cmplr-lib-rt==2025.0.5"];
/// The compilers from CUDA C to PTX and from PTX to machine code, both of which work without a GPU.
const CUDA: [&str; 2] = ["nvidia-cuda-nvrtc-cu12==12.9.86", "nvidia-cuda-nvcc-cu12==12.9.86"];
/// The names of `.icd` files, and the libraries of the Intel wheels that they name.
const LIBRARIES: [(&str, &str); 2] =
    [("intel-cpu.icd", "libintelocl.so"), ("intel-fpga-emulator.icd", "libintelocl_emu.so")];
/// Whether the wheels are made for this system.
pub(crate) const WHEELS_RUN: bool = cfg!(all(target_os = "linux", target_arch = "x86_64"));
/// The package of QEMU, which plays processors that this machine does not have.
/// One test needs it, and says so where it is missing.
const QEMU: &str = "qemu-user";
/// The variable by which Intel's OpenCL is told what to compile for, where it does not know the
/// processor.
pub(crate) const TARGET: &str = "CL_CONFIG_CPU_TARGET_ARCH";
/// The folder in which the OpenCL loader looks by default.
const VENDORS: &str = "/etc/OpenCL/vendors";

/// Installs what is missing, and prints what was found of each part.
pub(crate) fn setup(workspace: &Workspace) -> Result<()> {
    debian(workspace)?;
    if !WHEELS_RUN {
        println!("Intel's OpenCL and CUDA's compilers: not for this system");
        return Ok(());
    }
    cuda(workspace)?;
    wheels(workspace, "intel", &INTEL)?;
    let written = icd_files(workspace)?;
    register(workspace, &written)?;
    qemu(workspace);
    match target(workspace) {
        Some(target) => println!("Intel's OpenCL does not know this processor; tests start with {TARGET}={target}"),
        None => println!("Intel's OpenCL knows this processor, or {TARGET} is set"),
    }
    Ok(())
}

/// Installs QEMU where that is possible; without it, only one test is skipped.
fn qemu(workspace: &Workspace) {
    if succeeds(Command::new("qemu-x86_64").arg("--version")) {
        println!("{QEMU}: there already");
    } else if let Err(error) = apt(workspace, &[QEMU]) {
        println!("{error}; the test of processors that a driver does not know is skipped without it");
    }
}

/// Returns the target that Intel's OpenCL has to be told to compile for, where it does not know
/// this processor and would compute wrong results.
///
/// The driver itself is asked, once.
/// The backend's crate has a table for this, and sets the variable in its own process.
/// Here the variable is set for whole processes, so that no test sets it beside threads that may
/// read it.
pub(crate) fn target(workspace: &Workspace) -> Option<String> {
    static ANSWER: OnceLock<Option<String>> = OnceLock::new();
    let driver = workspace.icd_folder().join(LIBRARIES[0].0);
    // No answer is kept before there is a driver, because setup may install one in this process.
    if !WHEELS_RUN || std::env::var_os(TARGET).is_some_and(|told| !told.is_empty()) || !driver.exists() {
        return None;
    }
    let ask = || {
        let mut command = Command::new("python3");
        command.arg(workspace.script("opencl_target.py")).env("OCL_ICD_VENDORS", &driver);
        let answer = command.output().ok().filter(|output| output.status.success())?.stdout;
        Some(String::from_utf8_lossy(&answer).trim().to_owned()).filter(|target| !target.is_empty())
    };
    ANSWER.get_or_init(ask).clone()
}

/// Installs CUDA's compilers.
pub(crate) fn cuda(workspace: &Workspace) -> Result<()> {
    wheels(workspace, "nvrtc", &CUDA)
}

/// Returns the Python of the environment that holds CUDA's compilers.
pub(crate) fn cuda_python(workspace: &Workspace) -> PathBuf {
    workspace.cache.join("drivers").join("nvrtc").join("bin").join("python")
}

fn debian(workspace: &Workspace) -> Result<()> {
    let query = [&["--show", "--showformat=${db:Status-Status}\n"][..], &DEBIAN].concat();
    let names = DEBIAN.join(" ");
    let Ok(output) = Command::new("dpkg-query").args(query).output() else {
        println!("{names}: not a Debian system; install its OpenCL loader, PoCL, Vulkan loader and lavapipe by hand");
        return Ok(());
    };
    let states = String::from_utf8_lossy(&output.stdout);
    if states.lines().filter(|state| *state == "installed").count() == DEBIAN.len() {
        println!("{names}: there already");
        return Ok(());
    }
    apt(workspace, &DEBIAN)
}

/// Installs wheels into an environment of their own, `drivers/NAME`.
fn wheels(workspace: &Workspace, name: &str, packages: &[&str]) -> Result<()> {
    let home = workspace.cache.join("drivers").join(name);
    // The environment is not cleared, because a process may have these libraries open.
    environment(workspace, &home, packages, false, || Ok("python3".to_owned()))
}

/// Writes the `.icd` files of the cache: PoCL's as the system has it, and Intel's.
/// Returns the paths of Intel's files.
fn icd_files(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let pocl = Path::new(VENDORS).join("pocl.icd");
    let pocl = std::fs::read_to_string(&pocl)
        .map_err(|error| format!("PoCL does not say where it is: cannot read {}: {error}", pocl.display()))?;
    let libraries = workspace.cache.join("drivers").join("intel").join("lib");
    let mut files = vec![("pocl.icd", pocl)];
    for (name, library) in LIBRARIES {
        // The library is named where it lies: through a link, a driver does not find the other
        // files that it needs.
        let library = libraries.join(library);
        if !library.exists() {
            let home = libraries.with_file_name("");
            return Err(format!("{} is missing; remove {} and run setup again", library.display(), home.display()));
        }
        files.push((name, format!("{}\n", library.display())));
    }
    let folder = workspace.icd_folder();
    let intel = files[1..].iter().map(|(name, _)| folder.join(name)).collect();
    if files.iter().all(|(name, text)| std::fs::read_to_string(folder.join(name)).is_ok_and(|found| found == *text)) {
        println!("{}: there already", folder.display());
        return Ok(intel);
    }
    // The folder appears with all of its files at once: the loader takes it instead of the
    // system's, so a driver missing from it would not be found.
    let making = folder.with_extension("part");
    std::fs::create_dir_all(&making).map_err(|error| format!("cannot make {}: {error}", making.display()))?;
    for (name, text) in &files {
        write(&making.join(name), text)?;
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|error| format!("cannot remove {}: {error}", folder.display()))?;
    }
    std::fs::rename(&making, &folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    println!("{}: written", folder.display());
    Ok(intel)
}

/// Tells whether the cache's drivers are registered for the whole system.
pub(crate) fn registered() -> bool {
    LIBRARIES.iter().all(|(name, _)| registration(name).exists())
}

fn registration(name: &str) -> PathBuf {
    Path::new(VENDORS).join(format!("hetero-{name}"))
}

/// Makes the loader find the cache's drivers in every process, as an installer of the vendor's
/// would.
fn register(workspace: &Workspace, files: &[PathBuf]) -> Result<()> {
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let target = registration(&name);
        if std::fs::read(&target).is_ok_and(|found| std::fs::read(file).is_ok_and(|wanted| wanted == found)) {
            println!("{}: there already", target.display());
            continue;
        }
        let (file, target) = (file.to_string_lossy(), target.to_string_lossy());
        if let Err(error) = sudo(workspace, &["install", "-m", "644", &file, &target]) {
            // Everything is there for tests; only a plain `hetero` needs the variable.
            println!("cannot register a driver for the whole system: {error}");
            println!("where hetero is to find it, set OCL_ICD_VENDORS={}", workspace.icd_folder().display());
            return Ok(());
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
