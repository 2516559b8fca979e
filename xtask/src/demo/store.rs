//! Where the demo's tables live: a folder, the testkit's own S3 server (which ends with the demo's server), or a bucket of
//! the user's, with credentials from the environment.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::{Args, ValueEnum};
use kriya_testkit::Builder;

use crate::failure::{Failure, Outcome};
use crate::{pg, places, progress};

/// A kind of place.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A folder in the data directory
    Local,
    /// An object store that speaks S3
    S3,
}

/// Where the demo's tables live.
#[derive(Args)]
pub struct Store {
    /// Where tables are kept
    #[arg(long, value_enum, default_value = "local")]
    endpoint: Kind,
    /// An S3 endpoint of yours, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment [default: a server
    /// that is started for the demo]
    #[arg(long, value_name = "URL")]
    s3_url: Option<String>,
    /// The bucket of that endpoint; it must exist
    #[arg(long, value_name = "NAME", default_value = "lsm-postgres")]
    s3_bucket: String,
}

impl Store {
    fn is_s3(&self) -> bool {
        self.endpoint == Kind::S3 || self.s3_url.is_some()
    }

    /// Adds the settings of a server in the folder `root`; starts an S3 server if there is none.
    ///
    /// # Errors
    /// If the S3 server cannot be built or started.
    pub fn prepare(&self, server: Builder, root: &Path) -> Outcome<Builder> {
        if !self.is_s3() {
            return Ok(server.setting("lsm_s3.endpoint", "local"));
        }
        let server = server.setting("lsm_s3.bucket", &self.s3_bucket);
        if let Some(url) = &self.s3_url {
            // The server inherits our environment, and its worker looks for credentials there.
            return Ok(server.setting("lsm_s3.endpoint", url));
        }
        let told = progress::step("starting an S3 server", || start(root, &self.s3_bucket))?;
        println!("  S3 server: {}", told.endpoint);
        Ok(server
            .setting("lsm_s3.endpoint", &told.endpoint)
            .setting("lsm_s3.access_key_id", &told.key_id)
            .setting("lsm_s3.secret_access_key", &told.secret))
    }

    /// The folder of the objects of a server in the folder `root`, if they are on this machine.
    pub fn folder(&self, root: &Path) -> Outcome<Option<std::path::PathBuf>> {
        match (self.is_s3(), &self.s3_url) {
            (false, _) => Ok(Some(root.join("data/kriya/objects"))),
            (true, None) => pg::default_root("demo-objects").map(Some),
            (true, Some(_)) => Ok(None),
        }
    }
}

/// What the S3 server tells when it has started.
struct Told {
    endpoint: String,
    key_id: String,
    secret: String,
}

/// Starts the testkit's server in an empty folder; it ends with the Postgres server in the folder `root`.
fn start(root: &Path, bucket: &str) -> Outcome<Told> {
    let mut cargo = places::cargo();
    cargo.args(["build", "--quiet", "--package", "kriya-testkit", "--bin", "kriya-s3"]);
    let shown = progress::display(&cargo);
    let status = cargo.status().map_err(|e| Failure::new(format!("running {shown}: {e}")))?;
    if !status.success() {
        return Err(Failure::new(format!("{shown}: {status}")));
    }
    let folder = pg::default_root("demo-objects")?;
    match fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Failure::doing("removing", &folder)(e)),
        _ => {}
    }
    let mut command = Command::new(places::target().join("debug/kriya-s3"));
    command.arg("--folder").arg(&folder).args(["--bucket", bucket]);
    command.arg("--with-server").arg(root.join("data/postmaster.pid"));
    // Its own process group: Ctrl-C in the terminal that started it is not for it.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn().map_err(|e| Failure::new(format!("starting kriya-s3: {e}")))?;
    let mut told = Told { endpoint: String::new(), key_id: String::new(), secret: String::new() };
    let Some(out) = child.stdout.take() else { return Err(Failure::new("kriya-s3 tells nothing")) };
    for line in BufReader::new(out).lines() {
        let line = line.map_err(|e| Failure::new(format!("reading what kriya-s3 tells: {e}")))?;
        if let Some(endpoint) = line.strip_prefix("endpoint ") {
            endpoint.clone_into(&mut told.endpoint);
        } else if let Some(id) = line.strip_prefix("AWS_ACCESS_KEY_ID=") {
            id.clone_into(&mut told.key_id);
        } else if let Some(secret) = line.strip_prefix("AWS_SECRET_ACCESS_KEY=") {
            secret.clone_into(&mut told.secret);
            return Ok(told);
        }
    }
    Err(Failure::new("kriya-s3 ended before it told where it is"))
}
