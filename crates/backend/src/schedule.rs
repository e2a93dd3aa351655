//! How the kernel schedules the calling thread, for threads that must not be in the way and threads that must not wait.
//!
//! Neither needs a privilege: a thread may always step back, and may ask for its share in smaller pieces. It must never
//! give a thread more than its share, nor fail a caller who can do without.

use std::io;
use std::time::Duration;

/// What `sched_setattr` takes (its first version, `SCHED_ATTR_SIZE_VER0`, which every kernel since 3.14 knows).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const SIZE: u32 = size_of::<Attributes>() as u32;

/// Has the calling thread run only when nobody else wants the processor; whoever wants it gets it at once (`SCHED_IDLE`).
pub fn run_when_idle() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a value that lives during the call and is only read; 0 is the calling thread. Safe code
    // will not do: neither std nor rustix has a call for it.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameter) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Has the calling thread get its share of the processor in slices of `slice`, so that it need not wait, when it wakes, for
/// the end of another's longer one. The kernel bounds it (0.1 to 100 ms); before Linux 6.12 it changes nothing, nor does it
/// for a thread with real-time priority.
pub fn take_short_slices(slice: Duration) -> io::Result<()> {
    let mut attributes = attributes()?;
    if attributes.policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    attributes.runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: the pointer is to a value that lives during the call, is only read, and has the size that it names; 0 is the
    // calling thread. Safe code will not do: neither std nor rustix has a call for it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn attributes() -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the pointer is to a value that lives during the call and may be written, of the size that is named; any
    // bytes are a valid value of it. Safe code will not do: neither std nor rustix has a call for it.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) };
    if result == 0 { Ok(Attributes { size: SIZE, ..attributes }) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_changes_how_it_is_scheduled_and_no_other() {
        let before = attributes().unwrap();
        let changed = |change: fn() -> io::Result<()>| {
            std::thread::spawn(move || {
                change().unwrap();
                attributes().unwrap()
            })
            .join()
            .unwrap()
        };
        assert_eq!(changed(run_when_idle).policy, libc::SCHED_IDLE as u32);
        let sliced = changed(|| take_short_slices(Duration::from_micros(300)));
        assert_eq!((sliced.policy, sliced.nice), (before.policy, before.nice));
        // Kernels that know slices tell the one that was asked for; others tell none.
        assert!(
            before.policy != libc::SCHED_OTHER as u32 || [0, 300_000].contains(&sliced.runtime),
            "{} ns",
            sliced.runtime
        );
        let after = attributes().unwrap();
        assert_eq!((after.policy, after.nice, after.runtime), (before.policy, before.nice, before.runtime));
    }
}
