//! Which core a thread runs on, where the system lets one say.

/// Cores that this process may use, in the system's order; empty where the system does not say.
pub(super) fn cores() -> Vec<usize> {
    imp::cores()
}

/// The core that the calling thread is on now.
pub(super) fn current() -> Option<usize> {
    imp::current()
}

/// The system's number of the calling thread; 0 where it has none.
pub(super) fn thread() -> i32 {
    imp::thread()
}

/// Keeps a thread on some cores; where that is refused, it stays where it likes.
pub(super) fn keep(thread: i32, cores: &[usize]) {
    imp::keep(thread, cores);
}

#[cfg(target_os = "linux")]
mod imp {
    use std::mem::MaybeUninit;

    pub(super) fn cores() -> Vec<usize> {
        let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
        // SAFETY: the system fills as many bytes as the set has; all zeros is an empty set.
        let set = unsafe {
            if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) != 0 {
                return vec![];
            }
            set.assume_init()
        };
        // SAFETY: the numbers are below the set's size.
        (0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect()
    }

    pub(super) fn current() -> Option<usize> {
        // SAFETY: no argument, no memory.
        usize::try_from(unsafe { libc::sched_getcpu() }).ok()
    }

    pub(super) fn thread() -> i32 {
        // SAFETY: no argument, no memory.
        unsafe { libc::gettid() }
    }

    pub(super) fn keep(thread: i32, cores: &[usize]) {
        // SAFETY: the set is zeroed and then holds cores below its size; the system only reads it. A thread that has ended is refused.
        unsafe {
            let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed().assume_init();
            for &core in cores.iter().filter(|&&core| core < libc::CPU_SETSIZE as usize) {
                libc::CPU_SET(core, &mut set);
            }
            libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &raw const set);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    pub(super) fn cores() -> Vec<usize> {
        vec![]
    }

    pub(super) fn current() -> Option<usize> {
        None
    }

    pub(super) fn thread() -> i32 {
        0
    }

    pub(super) fn keep(_: i32, _: &[usize]) {}
}
