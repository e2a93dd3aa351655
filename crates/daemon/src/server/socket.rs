//! The socket's file: nobody can open it before its permissions stand, and nobody else's is removed.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Makes the socket at `path`, in place of one that nobody serves any more.
///
/// It is made in a folder that nobody else may enter, given its owner and permissions there, and only then linked to its
/// place: there is no moment at which it is there with others.
pub fn listen(path: &Path, mode: u32, group: Option<u32>) -> io::Result<UnixListener> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    match UnixStream::connect(path) {
        Ok(_) => return Err(served(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => fs::remove_file(path)?,
    }
    // Its name is short: a socket's path has little room.
    let private = Private(folder.join(format!(".{}", std::process::id())));
    // What a process with this number left when it was killed.
    let _ = fs::remove_dir_all(&private.0);
    DirBuilder::new().mode(0o700).create(&private.0)?;
    let made = private.0.join("s");
    let listener = UnixListener::bind(&made)?;
    chown(&made, None, group)?;
    fs::set_permissions(&made, Permissions::from_mode(mode))?;
    fs::hard_link(&made, path).map_err(|error| match error.kind() {
        // Another daemon was quicker.
        io::ErrorKind::AlreadyExists => served(path),
        _ => error,
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn served(path: &Path) -> io::Error {
    let message = format!("{} is served already: is another daemon running?", path.display());
    io::Error::new(io::ErrorKind::AddrInUse, message)
}

/// A folder that goes with its value.
struct Private(PathBuf);

impl Drop for Private {
    fn drop(&mut self) {
        // Nobody else can be in it; what cannot be removed does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A socket's file, as it was made.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// The one that is at `path` now.
    pub fn at(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.into(), identity: identity(path)? })
    }

    /// Removes it. False when another one has its place by now, which stays.
    pub fn remove(self) -> io::Result<bool> {
        if identity(&self.path)? != self.identity {
            return Ok(false);
        }
        fs::remove_file(&self.path)?;
        Ok(true)
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("lamina-socket-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_socket_has_its_permissions_from_its_first_moment() {
        let folder = Folder::new("mode");
        let path = folder.0.join("lamina.sock");
        let (seen, is_over) = (std::sync::Mutex::new(Vec::new()), std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    if let Ok(metadata) = fs::metadata(&path) {
                        seen.lock().unwrap().push(metadata.mode() & 0o777);
                    }
                }
            });
            for _ in 0..200 {
                let listener = listen(&path, 0o620, None).unwrap();
                assert!(UnixStream::connect(&path).is_ok());
                drop(listener);
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(seen.lock().unwrap().iter().all(|mode| *mode == 0o620));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o620);
        assert_eq!(folder.names(), ["lamina.sock"], "nothing else is left");
    }

    #[test]
    fn one_that_is_served_stays_and_one_that_is_not_is_replaced() {
        let folder = Folder::new("served");
        let path = folder.0.join("lamina.sock");
        let first = listen(&path, 0o600, None).unwrap();
        assert_eq!(listen(&path, 0o600, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let second = listen(&path, 0o600, None).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
        assert_eq!(folder.names(), ["lamina.sock"]);
    }

    #[test]
    fn only_the_own_file_is_removed() {
        let folder = Folder::new("own");
        let path = folder.0.join("lamina.sock");
        let _listener = listen(&path, 0o600, None).unwrap();
        let own = SocketFile::at(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = listen(&path, 0o600, None).unwrap();
        let others = SocketFile::at(&path).unwrap();
        assert!(!own.remove().unwrap());
        assert!(UnixStream::connect(&path).is_ok(), "the other one's is still there");
        assert!(others.remove().unwrap());
        assert!(SocketFile::at(&path).is_err());
    }
}
