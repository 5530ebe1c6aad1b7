//! The choice of the core that a thread runs on, where the system allows one.

/// Returns the cores that this process may use, in the system's order; empty where the system does
/// not tell them.
pub(super) fn cores() -> Vec<usize> {
    imp::cores()
}

/// Returns the core that the calling thread is on now.
pub(super) fn current() -> Option<usize> {
    imp::current()
}

/// Returns the system's number of the calling thread, or 0 where it has none.
pub(super) fn thread() -> i32 {
    imp::thread()
}

/// Returns the nanoseconds that a thread of this process has run, or 0 where the system does not
/// tell them.
/// While the thread has no core, this number stands still.
pub(super) fn runtime(thread: i32) -> u64 {
    imp::runtime(thread)
}

/// Keeps a thread on a core, and moves it there at once; where the system refuses, the thread may
/// run anywhere.
pub(super) fn keep(thread: i32, core: usize) {
    imp::keep(thread, core);
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
        // SAFETY: the call takes no argument and touches no memory.
        usize::try_from(unsafe { libc::sched_getcpu() }).ok()
    }

    pub(super) fn thread() -> i32 {
        // SAFETY: the call takes no argument and touches no memory.
        unsafe { libc::gettid() }
    }

    pub(super) fn runtime(thread: i32) -> u64 {
        // Linux builds the clock of a thread's processor time from its number: bit 2 stands for 'of
        // a thread', and the value 2 for 'time on a core'.
        let clock: libc::clockid_t = (!thread << 3) | 4 | 2;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the system writes the time that it is given; a thread that has ended is refused.
        if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
            return 0;
        }
        (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
    }

    pub(super) fn keep(thread: i32, core: usize) {
        if core >= libc::CPU_SETSIZE as usize {
            return;
        }
        // SAFETY: the set is zeroed and then holds a core below its size; the system only reads it.
        // A thread that has ended is refused.
        unsafe {
            let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed().assume_init();
            libc::CPU_SET(core, &mut set);
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

    pub(super) fn runtime(_: i32) -> u64 {
        0
    }

    pub(super) fn keep(_: i32, _: usize) {}
}
