//! The thread that forks every child.
//!
//! Linux sends the parent-death signal when the *thread* that forked ends, not the process. Runtime worker threads
//! and `spawn_blocking` threads may end early, so all forks happen on one thread that lives as long as the process.
//! This is what makes it safe to call [`crate::Process::spawn`] from anywhere.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

type Job = Box<dyn FnOnce() + Send>;

static SPAWNER: Mutex<Option<mpsc::Sender<Job>>> = Mutex::new(None);

/// Spawns a command so that it gets `death` when this process ends in any way (on Linux; elsewhere it gets nothing).
/// [`crate::Process`] does more; this is for a child that shares the owner's terminal.
///
/// # Errors
/// When the command cannot be spawned.
pub async fn spawn_bound(mut command: Command, death: crate::Signal) -> io::Result<Child> {
    parent_death::arm(&mut command, death.system());
    let runtime = Handle::try_current().map_err(io::Error::other)?;
    let (sender, receiver) = oneshot::channel();
    submit(Box::new(move || {
        let _guard = runtime.enter();
        if let Err(Ok(mut unwanted)) = sender.send(command.spawn()) {
            // The caller has gone: nobody would ever stop this child.
            let _ = unwanted.start_kill();
        }
    }))?;
    receiver.await.map_err(io::Error::other)?
}

fn submit(job: Job) -> io::Result<()> {
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    let sender = match spawner.as_ref() {
        Some(sender) => sender,
        None => {
            let (sender, jobs) = mpsc::channel::<Job>();
            thread::Builder::new().name("dues-spawner".to_owned()).spawn(move || {
                for job in jobs {
                    // A panic must not end the thread: the kernel would then signal every child.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            })?;
            spawner.insert(sender)
        }
    };
    sender.send(job).map_err(|_closed| io::Error::other("the spawner thread has ended"))
}

#[cfg(target_os = "linux")]
mod parent_death {
    use std::io;

    use nix::{
        errno::Errno,
        sys::{prctl, signal::Signal},
        unistd::{Pid, getpid, getppid},
    };
    use tokio::process::Command;

    #[expect(unsafe_code, reason = "only the child itself, between fork and exec, can ask for the signal")]
    pub(super) fn arm(command: &mut Command, signal: Signal) {
        let parent = getpid();
        // SAFETY: the closure runs in the forked child, where only async-signal-safe work is allowed. It makes two
        // system calls (prctl, getppid), allocates nothing and touches no memory but its two captured integers.
        unsafe {
            command.pre_exec(move || ask(parent, signal));
        }
    }

    fn ask(parent: Pid, signal: Signal) -> io::Result<()> {
        // std runs this after the change of user, which would clear the setting.
        prctl::set_pdeathsig(signal)?;
        // The parent may have died before the call above; then no signal comes.
        if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
    }
}

#[cfg(not(target_os = "linux"))]
mod parent_death {
    use nix::sys::signal::Signal;
    use tokio::process::Command;

    pub(super) fn arm(_command: &mut Command, _signal: Signal) {}
}
