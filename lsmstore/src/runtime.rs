//! A tokio runtime for people without one.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use crate::env::{JobLost, SystemEnv};

/// A runtime that may be dropped anywhere, also on a thread of another runtime.
#[derive(Debug)]
pub(crate) struct Own {
    handle: Handle,
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

impl Own {
    pub(crate) fn new() -> std::io::Result<Own> {
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("lsmstore").enable_all().build()?;
        Ok(Own { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Runs a job there and waits for it, without any runtime's help.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl Future<Output = T> + Send + 'static) -> Result<T, JobLost> {
        let (send, receive) = mpsc::sync_channel(1);
        self.handle.spawn(async move { drop(send.send(job.await)) });
        receive.recv().map_err(|_| JobLost)
    }

    /// Runs a future on this thread, with its timers and connections there. The thread may be one of any executor, which is
    /// why none is asked for help: tokio's would refuse, or have the future wait for a turn that never ends.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let _within = self.handle.enter();
        let parked = Arc::new(Parked { thread: thread::current(), woken: AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&parked));
        let mut future = pin!(tokio::task::unconstrained(future));
        loop {
            if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return done;
            }
            while !parked.woken.swap(false, Ordering::Acquire) {
                thread::park();
            }
        }
    }

    pub(crate) fn spawn<T: Send + 'static>(&self, job: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.handle.spawn(job)
    }

    /// An environment whose background work goes on there.
    pub(crate) fn env(&self) -> Arc<SystemEnv> {
        Arc::new(SystemEnv::on(self.handle.clone()))
    }
}

/// A thread that sleeps until it is woken.
struct Parked {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Parked {
    fn wake(self: Arc<Parked>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        // Waiting for its threads is refused on those of a runtime, so somebody else does.
        let (hand_over, handed) = mpsc::sync_channel::<Runtime>(1);
        let ending = std::thread::Builder::new().spawn(move || drop(handed.recv()));
        match (ending, hand_over.send(runtime)) {
            (Ok(ending), Ok(())) => drop(ending.join()),
            (_, Err(mpsc::SendError(runtime))) => runtime.shutdown_background(),
            (Err(_), Ok(())) => {}
        }
    }
}
