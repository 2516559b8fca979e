//! Peers to measure beside: libraries from the Python index, in an environment of their own below the home of `setup`.
//!
//! hnswlib is built from its source distribution for this very CPU (its own setup does that; a wheel made elsewhere would
//! not be), the others choose their instructions when they run. What was installed is kept: remove the folder for newer
//! versions. pyglass is not among them: the index has nothing by the name of its wheels (`glassppy`) for Python 3.11, and what
//! it has under the name `pyglass` does not build.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use kriya_testkit::home;

use super::subjects::Encoding;
use crate::failure::{Failure, Outcome};
use crate::progress::{self, Log};

/// A library that can be measured beside.
pub struct Peer {
    /// What it is called here.
    pub name: &'static str,
    /// What it is called in the index.
    package: &'static str,
    /// How it can store vectors.
    encodings: &'static [Encoding],
    /// Whether its Python binding can search with a filter without calling back for every row.
    pub filters: bool,
    /// Whether it compares what codes found once more with vectors of f32.
    pub reranks: bool,
}

/// The libraries that are known.
pub const KNOWN: [Peer; 3] = [
    Peer { name: "hnswlib", package: "hnswlib", encodings: &[Encoding::F32], filters: false, reranks: false },
    Peer {
        name: "faiss",
        package: "faiss-cpu",
        encodings: &[Encoding::F32, Encoding::F16, Encoding::Bf16, Encoding::I8],
        filters: true,
        reranks: true,
    },
    Peer {
        name: "usearch",
        package: "usearch",
        encodings: &[Encoding::F32, Encoding::F16, Encoding::Bf16, Encoding::I8],
        filters: false,
        reranks: false,
    },
];

impl Peer {
    /// The peer of a name.
    pub fn of(name: &str) -> Option<&'static Peer> {
        KNOWN.iter().find(|peer| peer.name == name)
    }

    /// Those of the encodings that it has; f32 if it has none of them.
    pub fn encodings(&self, asked: &[Encoding]) -> Vec<Encoding> {
        let has: Vec<_> = asked.iter().copied().filter(|encoding| self.encodings.contains(encoding)).collect();
        if has.is_empty() { vec![Encoding::F32] } else { has }
    }
}

/// An environment with the peers that were asked for.
pub struct Peers {
    folder: PathBuf,
}

impl Peers {
    /// Installs what is not there yet.
    ///
    /// # Errors
    /// No Python with `venv`; a library that the index does not have for it, or that cannot be built.
    pub fn provide(wanted: &[String], cpu: &str) -> Outcome<Peers> {
        // What is built for one CPU may not run on another.
        let cpu = cpu.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let peers = Peers { folder: home().join("bench").join(format!("peers-{cpu}")) };
        let missing: Vec<&String> = wanted.iter().filter(|name| !peers.marker(name).exists()).collect();
        if missing.is_empty() {
            return Ok(peers);
        }
        let bench = home().join("bench");
        fs::create_dir_all(&bench).map_err(Failure::doing("making", &bench))?;
        let path = bench.join("peers.lock");
        let lock = File::create(&path).map_err(Failure::doing("making", &path))?;
        lock.lock().map_err(Failure::doing("locking", &path))?;
        let log = Log::create(bench.join("peers.log"))?;
        // What a killed attempt left behind is cleared away.
        peers.once("environment", || {
            log.run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&peers.folder))
        })?;
        missing.into_iter().try_for_each(|name| peers.once(name, || peers.install(&log, name)))?;
        Ok(peers)
    }

    /// Takes a step that was not taken to its end before.
    fn once(&self, name: &str, step: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
        let marker = self.marker(name);
        if marker.exists() {
            return Ok(());
        }
        progress::step(&format!("peers: {name}"), step)?;
        fs::write(&marker, "").map_err(Failure::doing("writing", &marker))
    }

    /// The program that is any of them, still without arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.python());
        command.arg(crate::places::workspace().join("xtask/src/bench/ann/peer.py"));
        command
    }

    fn install(&self, log: &Log, name: &str) -> Outcome<()> {
        let package = Peer::of(name).map_or(name, |peer| peer.package);
        let mut pip = Command::new(self.python());
        pip.args(["-m", "pip", "install", "--quiet", "numpy"]);
        if name == "hnswlib" {
            // A wheel in pip's cache may have been built on another machine.
            pip.args(["--no-cache-dir", "--no-binary", package]).env_remove("HNSWLIB_NO_NATIVE");
        }
        log.run(pip.arg(package))
    }

    fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }

    /// Says that a library was installed whole.
    fn marker(&self, name: &str) -> PathBuf {
        Path::new(&self.folder).join(format!("installed-{name}"))
    }
}
