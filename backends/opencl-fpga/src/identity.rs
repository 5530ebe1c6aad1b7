//! What the code of OpenCL devices depends on beside their drivers' versions.

use std::path::{Path, PathBuf};

use hetero_kit::{file_identity, variables};

use crate::processor::Processor;

/// The beginnings of the names of variables that the loader and drivers read.
/// PoCL's folder for binaries is left out, as it changes no code.
const VARIABLES: &[&str] = &[
    "CL_CONFIG_",
    "OCL_ICD_",
    "OPENCL_",
    "POCL_DEVICES",
    "POCL_CPU_",
    "POCL_KERNEL_",
    "POCL_LLVM_",
    "POCL_WORK_GROUP_METHOD",
    "POCL_VECTORIZER_",
];
/// The variable that names the folder of `.icd` files, or one such file.
const VENDORS: &str = "OCL_ICD_VENDORS";
/// The folder of `.icd` files where nobody names one.
const FOLDER: &str = "/etc/OpenCL/vendors";
/// The most bytes of an `.icd` file that are read; it holds the path of a library.
const LONGEST: u64 = 4096;

/// Returns a text that changes with the processor, the variables that drivers read, and the files
/// of the drivers' libraries.
pub(crate) fn text() -> String {
    let vendors =
        std::env::var_os(VENDORS).filter(|name| !name.is_empty()).map_or_else(|| FOLDER.into(), PathBuf::from);
    format!("{}\n{}{}", Processor::host(), variables(VARIABLES), libraries(&vendors).concat())
}

/// Returns the identities of the libraries that the `.icd` files of a folder name, or that one
/// such file names.
fn libraries(vendors: &Path) -> Vec<String> {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(vendors) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => vec![vendors.to_owned()],
    };
    files.sort_unstable();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "icd"));
    let named = files.iter().filter_map(|path| hetero_files::read(path, LONGEST).ok());
    named.map(|text| file_identity(Path::new(String::from_utf8_lossy(&text).trim()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_replaced_changes_the_identity_of_its_devices() {
        let folder = std::env::temp_dir().join(format!("hetero-icd-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let library = folder.join("libdriver.so");
        std::fs::write(&library, "first").unwrap();
        std::fs::write(folder.join("driver.icd"), format!("{}\n", library.display())).unwrap();
        std::fs::write(folder.join("notes.txt"), "not a driver").unwrap();
        let first = libraries(&folder);
        assert_eq!(first, libraries(&folder.join("driver.icd")));
        std::fs::write(&library, "second").unwrap();
        let second = libraries(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((first.len(), second.len()), (1, 1));
        assert_ne!(first, second);
        assert_eq!(libraries(&folder), [] as [String; 0]);
    }
}
