//! A second server that speaks S3, written by others: moto, from the Python index, in an environment of its own. It tells
//! whether our client and our own server have misunderstood the protocol in the same way.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome};
use crate::places;
use crate::progress::Log;

use super::tally::Tally;
use super::{cargo_tests, logs};

const VERSION: &str = "moto[server]==5.2.1";
/// The bucket that the tests expect.
const BUCKET: &str = "kriya-other-server";
/// How long it may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends the server with the run.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It is our child and was not waited for: the id is still its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the tests of `kriya-testkit` that take any server, on moto.
///
/// # Errors
/// If there is no Python, moto cannot be installed or does not come up.
pub fn run(tally: &mut Tally) -> Outcome<()> {
    let folder = places::state().join("moto");
    let log = Log::create(logs().join("moto-setup.log"))?;
    if !folder.join("bin/moto_server").is_file() {
        log.run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        log.run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", VERSION]))?;
    }
    let port = free_port().map_err(|e| Failure::new(format!("looking for a free port: {e}")))?;
    let _server = start(&folder, port)?;
    make_bucket(port)?;
    let mut cargo = places::cargo();
    cargo.args(["test", "--no-fail-fast", "--package", "kriya-testkit", "--test", "objects", "--"]);
    cargo.args(["--ignored", "another_server"]);
    cargo.env("KRIYA_TEST_S3_URL", format!("http://127.0.0.1:{port}"));
    cargo_tests::run(tally, &mut cargo, "moto")
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn start(folder: &Path, port: u16) -> Outcome<Running> {
    let mut command = Command::new(folder.join("bin/moto_server"));
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(Running).map_err(|e| Failure::new(format!("starting moto_server: {e}")))
}

/// Makes the bucket as soon as the server answers; moto checks no signatures.
fn make_bucket(port: u16) -> Outcome<()> {
    let begin = Instant::now();
    loop {
        match put_bucket(port) {
            Ok(answer) if answer.contains(" 200 ") => return Ok(()),
            Ok(answer) => return Err(Failure::new(format!("moto does not make a bucket: {answer}"))),
            Err(error) if begin.elapsed() > PATIENCE => return Err(Failure::new(format!("moto: {error}"))),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn put_bucket(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let request =
        format!("PUT /{BUCKET} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}
