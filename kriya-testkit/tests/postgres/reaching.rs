//! How a store is reached: over HTTPS, with keys of a profile of the AWS files.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kriya_testkit::Builder;
use kriya_testkit::s3::{KEY, S3Options, S3Server};

use crate::s3::{BUCKET, ITEMS, NEAREST, on, set, store};
use crate::support::{builder, eventually, postgres, rows, run, started, told, value};

fn secure() -> S3Server {
    let options = S3Options { buckets: vec![BUCKET.into()], tls: true, ..S3Options::default() };
    S3Server::start(&options).expect("an S3 server")
}

/// Message and hint of what a table cannot be made for.
fn refusal(client: &mut postgres::Client) -> (String, String) {
    let error = client.batch_execute("CREATE TABLE t (i int) USING lsm_s3").expect_err("it cannot be reached");
    let hint = error.as_db_error().and_then(|error| error.hint()).unwrap_or_default().to_owned();
    (told(&error), hint)
}

/// A folder that servers can read.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("its mode");
    let path = dir.path().to_owned();
    (dir, path)
}

#[test]
fn a_store_behind_https_is_used_once_its_authority_is_trusted() {
    let (store, stranger, (_folder, folder)) = (secure(), secure(), folder());
    let server = started(on(&store));
    let mut client = server.connect().expect("a session");
    let (message, hint) = refusal(&mut client);
    assert!(message.contains("certificate is not trusted") && hint.contains("lsm_s3.ca_file"), "{message} {hint}");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).expect("a file");
        folder.join(name).display().to_string()
    };
    let missing = folder.join("missing.pem").display().to_string();
    let wrong = write("wrong.pem", stranger.authority().expect("an authority"));
    let none = write("none.pem", "nothing of the kind");
    for (file, said) in [(missing.clone(), &missing[..]), (none, "no certificate"), (wrong, "is not trusted")] {
        set(&mut client, "lsm_s3.ca_file", &file);
        let mut last = (String::new(), String::new());
        eventually(&format!("{said} is said"), || {
            last = refusal(&mut client);
            last.0.contains(said)
        });
        assert!(last.1.contains("lsm_s3.ca_file"), "{last:?}");
    }
    let checked = rows(&mut client, "SELECT detail FROM lsm_s3_check()");
    assert!(checked[0].contains("certificate is not trusted"), "{checked:?}");
    set(&mut client, "lsm_s3.ca_file", &write("right.pem", store.authority().expect("an authority")));
    eventually("tables are made", || client.batch_execute("CREATE TABLE t (i int) USING lsm_s3").is_ok());
    run(&mut client, ITEMS);
    assert_eq!(rows(&mut client, NEAREST).len(), 5);
    assert!(store.objects(BUCKET).iter().any(|name| name.contains("/segments/")));
    assert_eq!(rows(&mut client, "SELECT operation FROM lsm_s3_check() WHERE NOT ok"), Vec::<String>::new());
}

/// A server to be that looks for keys in AWS files only, with wrong ones in its environment.
fn with_files(store: &S3Server, folder: &Path) -> Builder {
    builder()
        .setting("lsm_s3.endpoint", &store.url())
        .setting("lsm_s3.bucket", BUCKET)
        .environment("AWS_SHARED_CREDENTIALS_FILE", folder.join("credentials"))
        .environment("AWS_CONFIG_FILE", folder.join("config"))
}

fn section(name: &str, key: (&str, &str)) -> String {
    format!("[{name}]\naws_access_key_id = {}\naws_secret_access_key = {}\n\n", key.0, key.1)
}

#[test]
fn a_profile_of_the_aws_files_signs_and_another_one_can_be_named_by_a_reload() {
    let (store, (_folder, folder)) = (store(), folder());
    let other = ("other-id", "other-secret");
    store.set_keys(&[KEY, other]);
    let wrong = ("wrong-id", "wrong-secret");
    let credentials = section("default", wrong) + &section("work", KEY);
    std::fs::write(folder.join("credentials"), &credentials).expect("a file");
    std::fs::write(folder.join("config"), section("default", wrong) + &section("profile other", other))
        .expect("a file");
    // A profile that is named goes before the environment.
    let builder = with_files(&store, &folder)
        .setting("lsm_s3.profile", "work")
        .environment("AWS_ACCESS_KEY_ID", wrong.0)
        .environment("AWS_SECRET_ACCESS_KEY", wrong.1);
    let server = started(builder);
    let mut client = server.connect().expect("a session");
    run(&mut client, ITEMS);
    // From here on the first key is not accepted any more; the other file has one that is.
    store.set_keys(&[other]);
    run(&mut client, "INSERT INTO items VALUES (501, '[1, 2, 3]')");
    assert!(client.batch_execute("SELECT lsm_s3_flush()").is_err());
    set(&mut client, "lsm_s3.profile", "other");
    eventually("the other profile is used", || client.batch_execute("SELECT lsm_s3_flush()").is_ok());
    set(&mut client, "lsm_s3.profile", "nobody");
    let mut checked = Vec::new();
    eventually("a profile that is not there is named", || {
        checked = rows(&mut client, "SELECT detail FROM lsm_s3_check()");
        checked[0].contains("no keys of a profile \"nobody\"")
    });
    assert_eq!(value(&mut client, "SELECT count(*) FROM items"), "501");
}

#[test]
fn without_a_profile_the_default_one_or_that_of_the_environment_signs() {
    for (variable, name) in [(None, "default"), (Some("chosen"), "chosen")] {
        let (store, (_folder, folder)) = (store(), folder());
        std::fs::write(folder.join("credentials"), section(name, KEY)).expect("a file");
        let mut builder = with_files(&store, &folder);
        if let Some(profile) = variable {
            builder = builder.environment("AWS_PROFILE", profile);
        }
        let server = started(builder);
        run(&mut server.connect().expect("a session"), ITEMS);
    }
}
