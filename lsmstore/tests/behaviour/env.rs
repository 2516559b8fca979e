//! Environments that are the real one but for what a test changes of it: a test implements [`Like`], says what it
//! changes, and puts the value [`Over`] the real one. And reactors: one whose clock stands still until somebody moves it,
//! one that does everything at once.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use futures::future::BoxFuture;
use lsmstore::{Env, EnvFile, Reactor, TokioReactor};

/// Another environment, but for the methods that the implementation has.
pub trait Like: Send + Sync + Debug + 'static {
    fn other(&self) -> &dyn Env;

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.other().create_dir(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn EnvFile>> {
        self.other().create(path)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.other().read(path)
    }
    fn open(&self, path: &Path) -> io::Result<File> {
        self.other().open(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.other().rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.other().remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.other().list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.other().sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.other().lock(path)
    }
    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.other().random(bytes)
    }
    fn reactor(&self) -> &dyn Reactor {
        self.other().reactor()
    }
}

/// An environment of what is like one.
#[derive(Debug, Default)]
pub struct Over<T>(pub T);

impl<T> Deref for Over<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Like> Env for Over<T> {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn EnvFile>> {
        self.0.create(path)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.read(path)
    }
    fn open(&self, path: &Path) -> io::Result<File> {
        self.0.open(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.0.lock(path)
    }
    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.0.random(bytes)
    }
    fn reactor(&self) -> &dyn Reactor {
        self.0.reactor()
    }
}

/// Time that passes only where somebody pauses, or a test moves it.
#[derive(Debug, Default)]
pub struct Clock {
    tokio: TokioReactor,
    now: Mutex<Duration>,
}

impl Clock {
    pub fn forward(&self, by: Duration) {
        *self.now.lock().unwrap() += by;
    }
}

impl Reactor for Clock {
    fn monotonic(&self) -> Duration {
        *self.now.lock().unwrap()
    }
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.tokio.sleep(time)
    }
    fn pause(&self, time: Duration) {
        self.forward(time);
    }
    fn spawn(&self, job: BoxFuture<'static, ()>) {
        self.tokio.spawn(job);
    }
    fn spawn_blocking(&self, job: Box<dyn FnOnce() + Send>) {
        self.tokio.spawn_blocking(job);
    }
}

/// Jobs that may block are done where they are asked for.
#[derive(Debug, Default)]
pub struct AtOnce(TokioReactor);

impl Reactor for AtOnce {
    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep(time)
    }
    fn pause(&self, time: Duration) {
        self.0.pause(time);
    }
    fn spawn(&self, job: BoxFuture<'static, ()>) {
        self.0.spawn(job);
    }
    fn spawn_blocking(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}
