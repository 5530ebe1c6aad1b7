//! The host, as the operating system describes it to this process.

/// Returns a field of the system's own description, where there is one.
pub(crate) fn described(path: &str, field: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Returns the bytes of memory that this process can have: those of the machine, of its control
/// group, and of its address space, whichever are fewest.
pub(crate) fn memory() -> Option<u64> {
    let machine = described("/proc/meminfo", "MemTotal").and_then(|text| kibibytes(&text));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group(&groups).and_then(|folder| {
        let limits = folder.ancestors().map(|folder| std::fs::read_to_string(folder.join("memory.max")));
        limits.filter_map(|text| text.ok()?.trim().parse().ok()).min()
    });
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let mapped = described("/proc/self/status", "VmSize").and_then(|text| kibibytes(&text)).unwrap_or(0);
    // Half of the rest is for the stacks of threads, for libraries, and for all that is no tensor.
    let space = address_space(&limits).map(|bytes| bytes.saturating_sub(mapped) / 2);
    machine.into_iter().chain(group).chain(space).min()
}

/// Returns the folder of the process's control group of version 2.
fn group(groups: &str) -> Option<std::path::PathBuf> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(std::path::Path::new("/sys/fs/cgroup").join(path))
}

/// Returns the most bytes that the process may map; `None` where nothing limits them.
fn address_space(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the bytes of a number of kibibytes, such as `24 kB`.
fn kibibytes(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_process_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             95000                95000                processes \n\
                      Max address space         4294967296           unlimited            bytes     \n";
        assert_eq!(address_space(limits), Some(1 << 32));
        assert_eq!(address_space(&limits.replace("4294967296", "unlimited ")), None);
        assert_eq!(kibibytes("24 kB"), Some(24 << 10));
        assert_eq!(group("12:pids:/x\n0::/user.slice/a\n"), Some("/sys/fs/cgroup/user.slice/a".into()));
        assert_eq!(group("1:memory:/x\n"), None);
    }

    #[test]
    fn this_process_can_have_memory() {
        assert!(memory().is_none_or(|bytes| bytes > 1 << 20));
    }
}
