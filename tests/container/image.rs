//! Images for tests, made of this host's own programs, since no registry can be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::stream;
use nix::fcntl::{Flock, FlockArg};
use sawmill::sandbox::container::Images;

/// Where the engine listens.
pub(crate) fn socket() -> PathBuf {
    std::env::var_os("SAWMILL_TEST_DOCKER").map_or_else(|| "/var/run/docker.sock".into(), PathBuf::from)
}

/// The engine, which must be there.
pub(crate) async fn docker() -> Docker {
    docker_at(&socket()).await
}

pub(super) async fn docker_at(path: &Path) -> Docker {
    let docker = Docker::connect_with_unix(path.to_str().expect("UTF-8"), 120, API_DEFAULT_VERSION);
    let docker = docker.expect("Docker is needed: run the tests with `make test`, which starts one");
    docker.negotiate_version().await.expect("Docker answers")
}

/// The programs of the usual image. What this program is linked with is not all among their libraries.
pub(crate) const TOOLS: &[&str] = &["/bin/busybox", "/usr/bin/git"];

/// An image with a shell, its usual companions and git; by its name.
pub(crate) async fn with_git() -> String {
    image_at(&socket(), "tools", TOOLS).await
}

/// An image with a shell and its usual companions, linked statically: there is no library in it, and no loader.
pub(crate) async fn bare() -> String {
    image_at(&socket(), "bare", &["/bin/busybox"]).await
}

/// An image of these programs with the libraries that they need.
pub(crate) async fn image_at(socket: &Path, kind: &str, programs: &[&str]) -> String {
    let mut files: BTreeSet<PathBuf> = programs.iter().map(PathBuf::from).collect();
    files.extend(programs.iter().flat_map(|program| libraries(program)));
    let tag = format!("sawmill-test:{kind}-{:x}", fingerprint(&files));
    let docker = docker_at(socket).await;
    let lock = File::create(std::env::temp_dir().join("sawmill-test-image.lock")).expect("a lock");
    let lock = tokio::task::spawn_blocking(|| Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error));
    let _lock = lock.await.expect("waited").expect("locked");
    if docker.inspect_image(&tag).await.is_err() {
        let archive = tokio::task::spawn_blocking(move || archive(&files)).await.expect("an archive");
        let images = Images::connect(socket).await.expect("the engine answers");
        images.import(&tag, stream::iter([archive.into()]), |_| ()).await.expect("the image is imported");
    }
    tag
}

/// The shared libraries that a program needs here.
fn libraries(program: &str) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn fingerprint(files: &BTreeSet<PathBuf>) -> u64 {
    let about = files.iter().map(|file| (file.clone(), fs::metadata(file).expect("a file").len()));
    let text = format!("1 {:?}", about.collect::<BTreeMap<_, _>>());
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn archive(files: &BTreeSet<PathBuf>) -> Vec<u8> {
    let root = tempfile::tempdir().expect("a directory");
    let place = |path: &Path| root.path().join(path.strip_prefix("/").expect("an absolute path"));
    for file in files {
        let to = place(file);
        fs::create_dir_all(to.parent().expect("a parent")).expect("directories");
        fs::copy(file, &to).expect("copied");
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("rights");
    }
    let applets = Command::new("/bin/busybox").arg("--list").output().expect("busybox runs");
    for applet in String::from_utf8_lossy(&applets.stdout).lines() {
        symlink("/bin/busybox", place(&Path::new("/bin").join(applet))).ok();
    }
    let output = Command::new("tar").arg("-C").arg(root.path()).args(["--owner=0", "--group=0", "-c", "."]).output();
    let output = output.expect("tar runs");
    assert!(output.status.success());
    output.stdout
}
