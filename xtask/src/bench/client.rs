//! How clients of a measurement speak: over the server's Unix socket, vectors as text parameters of prepared statements,
//! rows by binary COPY from bytes that were made beforehand.

use std::error::Error;
use std::io::Write;
use std::time::{Duration, Instant};

use kriya_datasets::Matrix;
use kriya_testkit::Postgres;
use kriya_testkit::postgres::types::private::BytesMut;
use kriya_testkit::postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use kriya_testkit::postgres::{Client, Config, NoTls};

use crate::failure::{Failure, Outcome};

/// How much of a COPY is handed over at once.
const PIECE: usize = 1 << 18;

/// A session.
///
/// # Errors
/// If the server refuses.
pub fn connect(server: &Postgres) -> Outcome<Client> {
    let mut config = Config::new();
    match server.folder().socket_dir() {
        Some(folder) => config.host_path(folder),
        None => config.host("127.0.0.1"),
    };
    config.port(server.port()).user("postgres").dbname("postgres");
    let mut client = config.connect(NoTls).map_err(kriya_testkit::Error::from)?;
    // Small tables, too, are to be searched by index; neither side's rows are to be compiled for.
    client.batch_execute("SET enable_seqscan = off; SET jit = off")?;
    Ok(client)
}

/// A vector as a parameter in text form, as most drivers send it.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a>(pub &'a str);

impl ToSql for Text<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(ty.name(), "lsmvector" | "vector")
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// Rows (number, vector) as the bytes of a binary COPY; both vector types have the same form.
///
/// # Errors
/// More rows or dimensions than the form can say.
pub fn copy_bytes(base: &Matrix<f32>) -> Outcome<Vec<u8>> {
    let dim = i16::try_from(base.dim()).map_err(|e| Failure::new(format!("{} dimensions: {e}", base.dim())))?;
    let length = 4 + 4 * i32::from(dim);
    let mut out = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for (id, row) in (0_i32..).zip(base.rows()) {
        out.extend_from_slice(&2_i16.to_be_bytes());
        out.extend_from_slice(&4_i32.to_be_bytes());
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&dim.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        row.iter().for_each(|value| out.extend_from_slice(&value.to_be_bytes()));
    }
    out.extend_from_slice(&(-1_i16).to_be_bytes());
    Ok(out)
}

/// Copies those bytes into a table; how long it took until it was committed.
///
/// # Errors
/// What the server says.
pub fn copy(client: &mut Client, table: &str, bytes: &[u8]) -> Outcome<Duration> {
    let begin = Instant::now();
    let mut to = client.copy_in(&format!("COPY {table} FROM STDIN (FORMAT binary)"))?;
    for piece in bytes.chunks(PIECE) {
        to.write_all(piece).map_err(|e| Failure::new(format!("COPY {table}: {e}")))?;
    }
    to.finish()?;
    Ok(begin.elapsed())
}

/// Brings the server to rest, so that what one subject left to be done is not done while another is measured: rows wait
/// for nobody, indexes have linked every entry. How long that took.
///
/// # Errors
/// What the server says.
pub fn settle(client: &mut Client) -> Outcome<Duration> {
    let begin = Instant::now();
    loop {
        let status: String = client.query_one("SELECT lsm_s3_status()", &[])?.get(0);
        if status.lines().filter(|line| line.starts_with("index ")).all(|line| line.ends_with(", 0 of them pending")) {
            return Ok(begin.elapsed());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// As [`settle`], and everything is written to where it is kept.
///
/// # Errors
/// What the server says.
pub fn rest(client: &mut Client) -> Outcome<()> {
    settle(client)?;
    Ok(client.batch_execute("SELECT lsm_s3_flush(); CHECKPOINT")?)
}
