//! One Postgres server in a folder of its own: made, started, stopped, killed, restarted.
//!
//! The postmaster is our own child process, so it is signalled and waited for by its exact id. It is ready when its
//! `postmaster.pid` says so (line 8) under that id. A server made here runs on in two cases only: it was told to
//! ([`Builder::stays`]), or this process was killed.
//!
//! After a kill, processes of the dead server may hold its shared memory for a moment; Postgres refuses to start over
//! them, and [`Postgres::start`] tries again until they are gone.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::account::Account;
use crate::error::Error;
use crate::folder::ServerFolder;
use crate::installation::Installation;
use crate::process;
use crate::processes::ServerProcess;

/// How long a server may take to come up or go down before it is called stuck.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at a server that is coming up or going down.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How a server is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are ended, then an orderly stop.
    Fast,
    /// As after a crash, without writing anything.
    Immediate,
}

/// What a server is to be like; [`Builder::start`] makes it.
#[derive(Debug, Clone)]
pub struct Builder {
    installation: Installation,
    settings: Vec<(String, String)>,
    environment: Vec<(OsString, OsString)>,
    initdb: Vec<String>,
    library: bool,
    durable: bool,
    stays: bool,
    port: Option<u16>,
    root: Option<PathBuf>,
}

impl Builder {
    /// Adds a line to the server's settings, for example `("lsm_s3.endpoint", "local")`. The value is quoted here.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Builder {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a variable in the environment of the server's processes.
    #[must_use]
    pub fn environment(mut self, name: &str, value: impl Into<OsString>) -> Builder {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Adds an argument for `initdb`, for example `--wal-segsize=1`.
    #[must_use]
    pub fn initdb(mut self, argument: &str) -> Builder {
        self.initdb.push(argument.to_owned());
        self
    }

    /// Starts without `kriya_pg` in `shared_preload_libraries`.
    #[must_use]
    pub fn without_library(mut self) -> Builder {
        self.library = false;
        self
    }

    /// Waits for the disk as a production server does. Without this a crash of the machine may lose data, a crash or
    /// kill of any process may not.
    #[must_use]
    pub fn durable(mut self) -> Builder {
        self.durable = true;
        self
    }

    /// The server outlives this process.
    #[must_use]
    pub fn stays(mut self) -> Builder {
        self.stays = true;
        self
    }

    /// Listens on `port`; without this, on a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Builder {
        self.port = Some(port);
        self
    }

    /// Lives in the folder `root`, which is made if it does not exist and is kept; without this, in a temporary one.
    #[must_use]
    pub fn folder(mut self, root: &Path) -> Builder {
        self.root = Some(root.to_owned());
        self
    }

    /// Makes the server (`initdb` if its folder has no data yet) and starts it.
    ///
    /// # Errors
    /// Any [`Error`] of making an account, a folder, the data or the start.
    pub fn start(self) -> Result<Postgres, Error> {
        let account = Account::for_servers()?;
        let folder = match &self.root {
            Some(root) => ServerFolder::kept(root, &account)?,
            None => ServerFolder::temporary(&account)?,
        };
        let mut server = Postgres { asked: self, account, folder, port: 0, child: None };
        server.make_data()?;
        server.start()?;
        Ok(server)
    }
}

/// A Postgres server.
#[derive(Debug)]
pub struct Postgres {
    asked: Builder,
    account: Account,
    folder: ServerFolder,
    port: u16,
    child: Option<Child>,
}

impl Postgres {
    /// Begins to describe a server of `installation`.
    pub fn builder(installation: &Installation) -> Builder {
        Builder {
            installation: installation.clone(),
            settings: Vec::new(),
            environment: Vec::new(),
            initdb: Vec::new(),
            library: true,
            durable: false,
            stays: false,
            port: None,
            root: None,
        }
    }

    /// The Postgres that it is a server of.
    pub fn installation(&self) -> &Installation {
        &self.asked.installation
    }

    /// Its folder.
    pub fn folder(&self) -> &ServerFolder {
        &self.folder
    }

    /// The account it runs as.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of its postmaster, if it was started and not yet stopped.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The last `lines` lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        process::tail(&self.folder.log(), lines)
    }

    /// The whole of its log.
    pub fn log_text(&self) -> String {
        process::tail(&self.folder.log(), usize::MAX)
    }

    /// Starts it, after a stop or a kill; on the port it had, if it had one.
    ///
    /// # Errors
    /// [`Error::NotReady`] with the end of the log, if it ends before it is ready or takes too long.
    pub fn start(&mut self) -> Result<(), Error> {
        let begin = Instant::now();
        if self.port == 0 {
            self.port = self.asked.port.map_or_else(free_port, Ok)?;
        }
        loop {
            self.write_settings()?;
            let log_before = std::fs::metadata(self.folder.log()).map_or(0, |m| m.len());
            self.spawn()?;
            let why = match self.wait_until_ready(begin) {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            let log = std::fs::read(self.folder.log()).unwrap_or_default();
            let fresh = usize::try_from(log_before).ok().and_then(|at| log.get(at..)).unwrap_or_default();
            let fresh = String::from_utf8_lossy(fresh);
            let still_held = fresh.contains("pre-existing shared memory block");
            let port_taken = fresh.contains("Address already in use") && self.asked.port.is_none();
            if begin.elapsed() > PATIENCE || !(still_held || port_taken) {
                return Err(Error::NotReady { root: self.folder.root().to_owned(), why, log: self.log_tail(20) });
            }
            if port_taken {
                self.port = free_port()?;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Stops it and waits until it has ended. A server that is not running is left as it is.
    ///
    /// # Errors
    /// [`Error::NotReady`] if it does not end in time.
    pub fn stop(&mut self, mode: StopMode) -> Result<(), Error> {
        self.signal(match mode {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        });
        self.wait_for_end()
    }

    /// Kills the postmaster (`SIGKILL`) and waits until it has ended. Its other processes notice and end by
    /// themselves, a moment later.
    ///
    /// # Errors
    /// [`Error::NotReady`] if it does not end in time.
    pub fn kill(&mut self) -> Result<(), Error> {
        self.signal(Signal::KILL);
        self.wait_for_end()
    }

    /// Kills the postmaster and all its processes at once, as when the machine loses power, and waits until they are
    /// gone. What they had written to files stays.
    ///
    /// # Errors
    /// [`Error::NotReady`] if it does not end in time.
    pub fn kill_all(&mut self) -> Result<(), Error> {
        // Stopped, the postmaster makes no new processes meanwhile.
        self.signal(Signal::STOP);
        let processes = self.processes();
        for process in &processes {
            process.signal(Signal::KILL);
        }
        self.signal(Signal::KILL);
        self.wait_for_end()?;
        let begin = Instant::now();
        while processes.iter().any(ServerProcess::is_alive) && begin.elapsed() < PATIENCE {
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// The processes that the postmaster has started and that are alive.
    pub fn processes(&self) -> Vec<ServerProcess> {
        self.pid().map(ServerProcess::children_of).unwrap_or_default()
    }

    /// Stops it orderly and starts it again.
    ///
    /// # Errors
    /// As [`Postgres::stop`] and [`Postgres::start`].
    pub fn restart(&mut self) -> Result<(), Error> {
        self.stop(StopMode::Fast)?;
        self.start()
    }

    fn make_data(&self) -> Result<(), Error> {
        let data = self.folder.data();
        let version = data.join("PG_VERSION");
        if version.is_file() {
            let major = std::fs::read_to_string(&version).map_err(|e| Error::io("reading", &version, e))?;
            let wanted = self.asked.installation.major.to_string();
            if major.trim() == wanted {
                return Ok(());
            }
            return Err(Error::Failed {
                what: format!("using the data in {}", data.display()),
                said: format!("it is PostgreSQL {}'s, the server is PostgreSQL {wanted}", major.trim()),
            });
        }
        let mut initdb = process::command(&self.account, &self.asked.installation.program("initdb"));
        initdb.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]);
        initdb.args(&self.asked.initdb);
        if !self.asked.durable {
            initdb.arg("--no-sync");
        }
        process::run(&mut initdb, &format!("initdb in {}", data.display()))?;
        self.write_as_account(&data.join("postgresql.conf"), "\ninclude 'kriya.conf'\n", true)
    }

    /// Writes the settings that this server was asked to have; `ALTER SYSTEM` overrides them.
    fn write_settings(&self) -> Result<(), Error> {
        let socket = self.folder.socket_dir().map(|d| d.display().to_string()).unwrap_or_default();
        let mut lines = vec![
            ("port", self.port.to_string()),
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", socket),
            ("wal_level", "replica".to_owned()),
            ("max_wal_senders", "4".to_owned()),
            ("max_replication_slots", "8".to_owned()),
            ("log_line_prefix", "%m [%p] %b ".to_owned()),
            ("fsync", if self.asked.durable { "on" } else { "off" }.to_owned()),
        ];
        if self.asked.library {
            lines.push(("shared_preload_libraries", "kriya_pg".to_owned()));
        }
        lines.extend(self.asked.settings.iter().map(|(name, value)| (&**name, value.clone())));
        let mut text = String::from("# Written anew at every start.\n");
        for (name, value) in lines {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''")));
        }
        self.write_as_account(&self.folder.data().join("kriya.conf"), &text, false)
    }

    /// Writes a file with the rights of the server's account, so that root follows no link that it may have made.
    fn write_as_account(&self, path: &Path, text: &str, append: bool) -> Result<(), Error> {
        let mut tee = process::command(&self.account, Path::new("tee"));
        if append {
            tee.arg("-a");
        }
        tee.arg("--").arg(path).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = tee.spawn().map_err(|e| Error::io("writing", path, e))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes()).map_err(|e| Error::io("writing", path, e))?;
        }
        let status = child.wait().map_err(|e| Error::io("writing", path, e))?;
        status
            .success()
            .then_some(())
            .ok_or_else(|| Error::Failed { what: format!("writing {}", path.display()), said: format!("{status}") })
    }

    fn spawn(&mut self) -> Result<(), Error> {
        let path = self.folder.log();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(&path)
            .map_err(|e| Error::io("opening", &path, e))?;
        let errors = log.try_clone().map_err(|e| Error::io("opening", &path, e))?;
        let mut command = process::command(&self.account, &self.asked.installation.program("postgres"));
        command.arg("-D").arg(self.folder.data()).stdout(log).stderr(errors);
        command.envs(self.asked.environment.iter().map(|(name, value)| (name, value)));
        if self.asked.stays {
            // Its own process group: Ctrl-C in the terminal that started it is not for it.
            command.process_group(0);
        }
        self.child = Some(command.spawn().map_err(|e| Error::io("starting a server in", self.folder.root(), e))?);
        Ok(())
    }

    /// Ok when ready; else why not, with the process ended.
    fn wait_until_ready(&mut self, begin: Instant) -> Result<(), String> {
        let pid_file = self.folder.data().join("postmaster.pid");
        let Some(child) = self.child.as_mut() else { return Err("it was not started".to_owned()) };
        let pid = child.id().to_string();
        loop {
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    self.child = None;
                    return Err(format!("it ended ({status})"));
                }
                Err(e) => return Err(format!("waiting for it: {e}")),
            }
            let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
            let mut lines = text.lines();
            let ours = lines.next() == Some(&pid);
            if ours && lines.nth(6).is_some_and(|status| matches!(status.trim(), "ready" | "standby")) {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                self.signal(Signal::QUIT);
                return match self.wait_for_end() {
                    Ok(()) => Err(format!("it was not ready after {} s", PATIENCE.as_secs())),
                    Err(e) => Err(e.to_string()),
                };
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Sends `signal` to the postmaster, which is our child and not yet waited for: the id is still its own.
    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // It may have ended already; then there is nothing to tell it.
            let _gone = kill_process(Pid::from_child(child), signal);
        }
    }

    fn wait_for_end(&mut self) -> Result<(), Error> {
        let begin = Instant::now();
        while let Some(child) = self.child.as_mut() {
            match child.try_wait() {
                Ok(None) if begin.elapsed() <= PATIENCE => std::thread::sleep(LOOK_AGAIN),
                Ok(Some(_)) => self.child = None,
                Ok(None) | Err(_) => {
                    return Err(Error::NotReady {
                        root: self.folder.root().to_owned(),
                        why: format!("it did not end within {} s", PATIENCE.as_secs()),
                        log: self.log_tail(20),
                    });
                }
            }
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.asked.stays {
            return;
        }
        if std::thread::panicking() {
            self.folder.keep();
            eprintln!("the server's folder is kept: {}\nthe end of its log:", self.folder.root().display());
            eprintln!("{}", self.log_tail(40));
        }
        if self.stop(StopMode::Immediate).is_err() {
            self.signal(Signal::KILL);
        }
        if self.folder.is_temporary() {
            // Left-over files in a temporary place are no reason to fail a test that has passed.
            let _left = std::fs::remove_dir_all(self.folder.root());
        }
    }
}

fn free_port() -> Result<u16, Error> {
    let asking = |source| Error::Io { doing: "looking for a free port on 127.0.0.1".to_owned(), source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(asking)?;
    Ok(listener.local_addr().map_err(asking)?.port())
}
