//! How a thread is scheduled: sched_setscheduler(2), for which no crate in use has a safe call.

/// Has the calling thread run before all ordinary ones, at the lowest real-time priority (`SCHED_RR`). Threads and processes that it starts are
/// ordinary again.
///
/// # Errors
/// `EPERM` without `CAP_SYS_NICE` or a limit on real-time priorities that allows it.
pub fn run_before_others() -> std::io::Result<()> {
    // SAFETY: all fields of the structure are integers.
    let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
    param.sched_priority = 1;
    // SAFETY: the structure lives for the call, which reads it only; 0 is the calling thread.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const param) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_allowed_or_refused_and_told_so() {
        let told = std::thread::spawn(super::run_before_others).join().unwrap();
        if let Err(error) = told {
            assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        }
    }
}
