//! `cargo xtask deb`: the Debian package, out of the binary and the files of `packaging/`.
//!
//! The same commit and the same binary give the same bytes: modes and owners are set here, times are the commit's,
//! names are sorted by `dpkg-deb`. Nothing is taken from the machine but the architecture.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{command, run};
use crate::repository::Repository;

const PACKAGING: &str = "packaging";
/// Where the package goes unless another folder is named, below the root.
const OUTPUT: &str = "target/package";
/// Completions: the shell and the file that it looks for.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions/lamina"),
    ("zsh", "usr/share/zsh/vendor-completions/_lamina"),
    ("fish", "usr/share/fish/vendor_completions.d/lamina.fish"),
];

/// Builds the package. `--binary FILE` packages that instead of a release build, `--output FOLDER` says where it goes.
pub fn build(repository: &Repository, arguments: &[String]) -> Result<PathBuf, String> {
    let mut binary = None;
    let mut output = repository.root.join(OUTPUT);
    for pair in arguments.chunks(2) {
        match pair {
            [flag, value] if flag == "--binary" => binary = Some(PathBuf::from(value)),
            [flag, value] if flag == "--output" => output = PathBuf::from(value),
            _ => return Err(format!("{} is not understood", pair.join(" "))),
        }
    }
    let binary = match binary {
        Some(binary) => binary,
        None => release(repository)?,
    };
    fs::create_dir_all(&output).map_err(|error| format!("{}: {error}", output.display()))?;
    let architecture = read(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let name = format!("lamina_{}_{architecture}.deb", env!("CARGO_PKG_VERSION"));
    let tree = output.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).map_err(|error| format!("{}: {error}", tree.display()))?;
    }
    stage(repository, &Tree(&tree), &binary, &architecture)?;
    let package = output.join(name);
    let mut dpkg = command(&repository.root, "dpkg-deb", &["--root-owner-group", "-Zgzip", "--build"]);
    dpkg.arg(&tree).arg(&package).env("SOURCE_DATE_EPOCH", commit_time(repository)?);
    run(dpkg)?;
    fs::remove_dir_all(&tree).map_err(|error| format!("{}: {error}", tree.display()))?;
    Ok(package)
}

fn release(repository: &Repository) -> Result<PathBuf, String> {
    run(command(&repository.root, "cargo", &["build", "--release", "--locked", "--package", "lamina"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(repository.root.join("target"), PathBuf::from);
    Ok(target.join("release/lamina"))
}

/// The time of the last commit, in seconds: it is in the package for every file.
fn commit_time(repository: &Repository) -> Result<String, String> {
    let mut git = command(&repository.root, "git", &["log", "-1", "--format=%ct"]);
    Ok(read(&mut git)?.trim().to_owned())
}

fn stage(repository: &Repository, tree: &Tree<'_>, binary: &Path, architecture: &str) -> Result<(), String> {
    let packaging = |name: &str| {
        let path = repository.root.join(PACKAGING).join(name);
        fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let program = fs::read(binary).map_err(|error| format!("{}: {error}", binary.display()))?;
    tree.put("usr/bin/lamina", &program, 0o755)?;
    tree.put("etc/lamina/laminad.toml", &packaging("laminad.toml")?, 0o644)?;
    tree.put("usr/lib/systemd/system/laminad.service", &packaging("laminad.service")?, 0o644)?;
    tree.put("usr/share/doc/lamina/copyright", &packaging("copyright")?, 0o644)?;
    for name in repository.ending(".md").filter(|name| name.starts_with("docs/")) {
        let text = repository.text(name).unwrap_or_default();
        tree.put(&format!("usr/share/doc/lamina/{}", &name["docs/".len()..]), text.as_bytes(), 0o644)?;
    }
    let changes = repository.text("CHANGELOG.md").unwrap_or_default();
    tree.put("usr/share/doc/lamina/CHANGELOG.md", changes.as_bytes(), 0o644)?;
    for (shell, path) in COMPLETIONS {
        let script = read(Command::new(binary).args(["completion", shell]))?;
        tree.put(path, script.as_bytes(), 0o644)?;
    }
    let pages = tree.folder("usr/share/man/man1")?;
    run(command(&repository.root, &binary.to_string_lossy(), &["man", &pages.to_string_lossy()]))?;
    for page in fs::read_dir(&pages).map_err(|error| format!("{}: {error}", pages.display()))? {
        let path = page.map_err(|error| error.to_string())?.path();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).map_err(|error| error.to_string())?;
        // Without name and time, so that the same page gives the same bytes.
        run(command(&repository.root, "gzip", &["--no-name", "--best", &path.to_string_lossy()]))?;
    }
    for script in ["postinst", "prerm", "postrm"] {
        tree.put(&format!("DEBIAN/{script}"), &packaging(script)?, 0o755)?;
    }
    tree.put("DEBIAN/conffiles", b"/etc/lamina/laminad.toml\n", 0o644)?;
    let control = control(architecture, libc_version(&program), tree.kilobytes(tree.0)?);
    tree.put("DEBIAN/control", control.as_bytes(), 0o644)
}

fn control(architecture: &str, libc: (u32, u32), kilobytes: u64) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let (major, minor) = libc;
    format!(
        "Package: lamina\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: Lamina <lamina@localhost>\n\
         Installed-Size: {kilobytes}\nDepends: libc6 (>= {major}.{minor}), libgcc-s1, passwd\nSection: net\n\
         Priority: optional\nDescription: programmable virtual switch\n Several controllers own layers of policy on \
         every virtual port of a host;\n the first packet of a flow walks them, every later one is looked up once \
         and\n edited once. This package has the daemon and the command.\n"
    )
}

/// The newest version of the C library that `program` asks for by a symbol's version.
fn libc_version(program: &[u8]) -> (u32, u32) {
    const MARK: &[u8] = b"GLIBC_";
    let version = |at: usize| {
        let text = &program[at + MARK.len()..];
        let end = text.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.')?;
        let mut parts = std::str::from_utf8(&text[..end]).ok()?.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    let marks = program.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    marks.filter_map(|(at, _)| version(at)).max().unwrap_or((2, 0))
}

fn read(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name} does not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("{name}: {error}"))
}

/// The files as they will lie on the system.
struct Tree<'a>(&'a Path);

impl Tree<'_> {
    /// Makes a folder and those above it, readable whatever the umask is.
    fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let mut path = self.0.to_path_buf();
        for part in std::iter::once("").chain(name.split('/')) {
            path.push(part);
            fs::create_dir_all(&path)
                .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(0o755)))
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(path)
    }

    fn put(&self, name: &str, content: &[u8], mode: u32) -> Result<(), String> {
        if let Some((folder, _)) = name.rsplit_once('/') {
            self.folder(folder)?;
        }
        let path = self.0.join(name);
        fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(mode)))
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Whole kilobytes of all files.
    fn kilobytes(&self, folder: &Path) -> Result<u64, String> {
        let mut sum = 0;
        for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
            let entry = entry.map_err(|error| error.to_string())?;
            let data = entry.metadata().map_err(|error| error.to_string())?;
            sum += if data.is_dir() { self.kilobytes(&entry.path())? } else { data.len().div_ceil(1024) };
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_symbol_decides_the_library() {
        assert_eq!(libc_version(b"x\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0GLIBC_PRIVATE\0"), (2, 34));
        assert_eq!(libc_version(b"static"), (2, 0));
    }

    #[test]
    fn the_unit_has_only_the_capabilities_that_are_needed() {
        let unit = include_str!("../../../packaging/laminad.service");
        for line in ["AmbientCapabilities=", "CapabilityBoundingSet="] {
            assert!(unit.contains(&format!("\n{line}CAP_NET_ADMIN CAP_NET_RAW\n")), "{line}");
        }
        // It would make /proc/sys/net read-only, and no port would find its device.
        assert!(!unit.contains("\nProtectKernelTunables=yes"));
    }
}
