//! Fetching from a server on this machine that does as it is told: everything at once, in part, too little, another thing.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;

use super::*;

struct Silent;
impl Watch for Silent {
    fn at(&self, _: u64, _: Option<u64>) {}
}

/// Answers one connection after the other with the given bytes; tells what each asked for.
fn server(answers: Vec<Vec<u8>>) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/file.fbin", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            tell.send(request.join("\n").to_lowercase()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    (address, told)
}

fn answer(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{}\r\n\r\n", headers.join("\r\n"));
    [head.as_bytes(), body].concat()
}

fn anything(_: &Sums) -> Option<String> {
    None
}

#[test]
fn a_file_is_named_when_all_of_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.fbin");
    let (address, _told) = server(vec![answer("200 OK", &["Content-Length: 3"], b"abc")]);
    let sums = fetch(&address, &path, anything, &Silent).unwrap();
    assert_eq!((sums.bytes, fs::read(&path).unwrap().as_slice()), (3, b"abc".as_slice()));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn a_broken_transfer_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.fbin");
    let (address, told) = server(vec![
        answer("200 OK", &["Content-Length: 10", "ETag: \"v1\""], b"0123"),
        answer("206 Partial Content", &["Content-Length: 6", "Content-Range: bytes 4-9/10", "ETag: \"v1\""], b"456789"),
    ]);
    let broken = fetch(&address, &path, anything, &Silent).unwrap_err().to_string();
    assert!(broken.contains("ended after 4 of 10 bytes"), "{broken}");
    assert!(!path.exists());
    assert!(!told.recv().unwrap().contains("range:"));
    fetch(&address, &path, anything, &Silent).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"0123456789");
    let second = told.recv().unwrap();
    assert!(second.contains("range: bytes=4-") && second.contains("if-range: \"v1\""), "{second}");
}

#[test]
fn another_version_is_fetched_from_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.fbin");
    let (address, _told) = server(vec![
        answer("200 OK", &["Content-Length: 10", "ETag: \"v1\""], b"0123"),
        answer("200 OK", &["Content-Length: 3", "ETag: \"v2\""], b"abc"),
    ]);
    assert!(fetch(&address, &path, anything, &Silent).is_err());
    fetch(&address, &path, anything, &Silent).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"abc");
}

#[test]
fn without_a_version_it_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.fbin");
    let (address, told) = server(vec![
        answer("200 OK", &["Content-Length: 10", "ETag: W/\"weak\""], b"0123"),
        answer("200 OK", &["Content-Length: 10"], b"0123456789"),
    ]);
    assert!(fetch(&address, &path, anything, &Silent).is_err());
    fetch(&address, &path, anything, &Silent).unwrap();
    let _first = told.recv().unwrap();
    assert!(!told.recv().unwrap().contains("range:"));
    assert_eq!(fs::read(&path).unwrap(), b"0123456789");
}

#[test]
fn a_transfer_that_was_complete_needs_no_more_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.fbin");
    fs::write(with(&path, ".part"), "abc").unwrap();
    fs::write(with(&path, ".part.version"), "\"v1\"").unwrap();
    let (address, _told) =
        server(vec![answer("416 Range Not Satisfiable", &["Content-Length: 0", "Content-Range: bytes */3"], b"")]);
    fetch(&address, &path, anything, &Silent).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"abc");
}

#[test]
fn a_wrong_checksum_is_told_and_the_bytes_are_thrown_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.fbin");
    let (address, _told) = server(vec![answer("200 OK", &["Content-Length: 3", "ETag: \"v1\""], b"abc")]);
    let wrong = |sums: &Sums| Some(format!("its MD5 is {}", sums.md5));
    let said = fetch(&address, &path, wrong, &Silent).unwrap_err().to_string();
    assert!(said.contains("3 bytes arrived, but its MD5 is 900150983cd24fb0d6963f7d28e17f72"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_server_that_refuses_or_sends_another_part_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.fbin");
    let (address, _told) = server(vec![answer("404 Not Found", &["Content-Length: 0"], b"")]);
    let said = fetch(&address, &path, anything, &Silent).unwrap_err().to_string();
    assert!(said.contains("404"), "{said}");

    fs::write(with(&path, ".part"), "abc").unwrap();
    fs::write(with(&path, ".part.version"), "\"v1\"").unwrap();
    let (address, _told) =
        server(vec![answer("206 Partial Content", &["Content-Length: 1", "Content-Range: bytes 7-7/10"], b"x")]);
    let said = fetch(&address, &path, anything, &Silent).unwrap_err().to_string();
    assert!(said.contains("from 3 on") && said.contains("7-7/10"), "{said}");
    assert_eq!(fs::read(with(&path, ".part")).unwrap(), b"abc", "what was there is kept");
}

#[test]
fn two_do_not_fetch_the_same_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.fbin");
    let other = File::create(with(&path, ".part")).unwrap();
    other.lock().unwrap();
    let said = fetch("http://127.0.0.1:9/file.fbin", &path, anything, &Silent).unwrap_err().to_string();
    assert!(said.contains("somebody else"), "{said}");
}
