//! Whether the machine may have chips beside the host's processor, without asking their drivers.

use std::path::Path;

/// The beginnings of the names that Linux gives the device files of chips.
/// These are graphics processors behind the kernel's common interface, NVIDIA's, AMD's for
/// computing, those that Windows shows its subsystem for Linux, and those of phones and boards.
/// Accelerators and FPGAs follow.
const FILES: &[&str] = &[
    "dri/renderD",
    "nvidia",
    "kfd",
    "dxg",
    "mali",
    "kgsl",
    "pvr",
    "galcore",
    "nvhost",
    "nvgpu",
    "nvmap",
    "accel/accel",
    "davinci",
    "acl",
    "dfl-",
    "fpga",
    "intel-fpga",
    "xclmgmt",
    "xdma",
];

/// Tells whether a driver may find a chip that is not the host's processor.
///
/// A vendor's library reaches such a chip by device files of the system's kernel, so that it need
/// not be loaded where there are none.
/// On other systems than Linux nothing is known, and the answer is yes.
///
/// ```
/// // It is the answer to `Driver::may_have_chips`.
/// let _worth_loading = hetero_kit::chips_may_be_there();
/// ```
#[must_use]
pub fn chips_may_be_there() -> bool {
    !cfg!(target_os = "linux") || are_in(Path::new("/dev"))
}

/// Tells whether a folder has device files of chips; yes where it cannot be read.
fn are_in(folder: &Path) -> bool {
    let begins = |name: &std::ffi::OsStr, with: &str| name.as_encoded_bytes().starts_with(with.as_bytes());
    let has = |folder: &Path, beginnings: &[&str]| {
        let Ok(mut entries) = std::fs::read_dir(folder) else { return true };
        entries.any(|entry| entry.is_ok_and(|entry| beginnings.iter().any(|with| begins(&entry.file_name(), with))))
    };
    let (inside, beside): (Vec<&str>, Vec<&str>) = FILES.iter().partition(|name| name.contains('/'));
    let inside = inside.iter().filter_map(|name| name.split_once('/'));
    has(folder, &beside)
        || inside.into_iter().any(|(of, with)| {
            let of = folder.join(of);
            of.exists() && has(&of, &[with])
        })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A folder with these files, which is removed when it is dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn with(name: &str, files: &[&str]) -> Self {
            let folder = std::env::temp_dir().join(format!("hetero-chips-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            for file in files {
                let file = folder.join(file);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, "").unwrap();
            }
            Folder(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_machine_without_chips_is_told_from_one_with_them() {
        // A card that only shows pictures is no chip to compute with.
        let bare = Folder::with("bare", &["null", "tty0", "dri/card0", "acc", "snd/accel"]);
        assert!(!are_in(&bare.0));
        for file in ["dri/renderD128", "nvidia0", "nvidiactl", "kfd", "dxg", "accel/accel0", "mali0", "dfl-fme.0"] {
            let folder = Folder::with(&file.replace('/', "-"), &["null", file]);
            assert!(are_in(&folder.0), "{file}");
        }
    }

    #[test]
    fn where_nothing_can_be_read_there_may_be_chips() {
        assert!(are_in(Path::new("/no/such/folder")));
    }
}
