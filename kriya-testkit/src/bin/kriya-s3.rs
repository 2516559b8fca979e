//! `kriya-s3`: a server that speaks S3, for the demo and for playing. Prints its address, its control endpoint's and the
//! key that it accepts, then serves until it is ended.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kriya_testkit::s3::{KEY, S3Options, S3Server};

/// A server that speaks S3, on 127.0.0.1. For tests and demonstrations: it keeps no promises about disks.
#[derive(Parser)]
struct Options {
    /// Keep content in this folder [default: memory]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Port [default: a free one]
    #[arg(long)]
    port: Option<u16>,
    /// Port of the control endpoint, where faults are set [default: a free one]
    #[arg(long, default_value_t = 0)]
    control_port: u16,
    /// A bucket to be made if it does not exist (may be repeated)
    #[arg(long = "bucket", value_name = "NAME", default_value = "lsm-postgres")]
    buckets: Vec<String>,
    /// End when the PostgreSQL server ends whose `postmaster.pid` this is, once it has started
    #[arg(long, value_name = "FILE")]
    with_server: Option<PathBuf>,
    /// Speak HTTPS, and write the certificate of the authority that is to be trusted into this file
    #[arg(long, value_name = "FILE")]
    authority: Option<PathBuf>,
}

/// Between two looks at the server that this one ends with.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whether a server runs whose `postmaster.pid` this is.
fn runs(pid_file: &Path) -> bool {
    let text = std::fs::read_to_string(pid_file).unwrap_or_default();
    let pid = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok());
    pid.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists())
}

/// Waits for the end of a server, or for ever.
fn wait_for_end(pid_file: Option<&Path>) {
    let Some(pid_file) = pid_file else {
        loop {
            std::thread::park();
        }
    };
    let mut seen = false;
    while !seen || runs(pid_file) {
        seen = seen || runs(pid_file);
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let server = S3Server::start(&S3Options {
        folder: options.folder,
        port: options.port,
        control_port: Some(options.control_port),
        buckets: options.buckets,
        unconditional: false,
        tls: options.authority.is_some(),
    });
    let server = server.and_then(|server| {
        if let (Some(file), Some(authority)) = (&options.authority, server.authority()) {
            std::fs::write(file, authority)?;
        }
        Ok(server)
    });
    match server {
        Ok(server) => {
            println!("endpoint {}", server.url());
            println!("control {}", server.control_url().unwrap_or_default());
            println!("AWS_ACCESS_KEY_ID={}\nAWS_SECRET_ACCESS_KEY={}", KEY.0, KEY.1);
            wait_for_end(options.with_server.as_deref());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
