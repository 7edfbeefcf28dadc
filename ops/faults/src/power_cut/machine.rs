//! The virtual machine: a kernel, busybox, nats-server, central, and a disk.

use std::{
    env, fs,
    io::ErrorKind,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use ev_testkit::{
    Keys, Role, free_port, nats_server_program, our_program, wait_for, workspace_root,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{cpio::Archive, disk::Disk};

/// Interpreted code on a machine that does other things too: ten times what a boot takes.
pub const BOOT_PATIENCE: Duration = Duration::from_secs(240);

/// Enough for the kernel, 50 MB of programs in memory, and the page cache of the run.
const MEMORY_MIB: u32 = 1024;

/// Sparse: it takes the space of what is written.
const DISK_BYTES: u64 = 2 * 1024 * 1024 * 1024;

const CONSOLE: &str = "console.log";

const CONSOLE_TAIL_LINES: usize = 40;

/// How the server in the machine writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As shipped: `sync_interval: always`.
    Shipped,
    /// The server's own default, every two minutes.
    ServerDefault,
}

/// What machines are made of.
#[derive(Debug)]
pub struct Workshop {
    kernel: PathBuf,
    root: PathBuf,
    folder: PathBuf,
    /// Whom the machines let in.
    pub keys: Keys,
    // Held while this run uses the folder.
    _lock: fs::File,
}

/// A running machine. Dropping it cuts its power.
#[derive(Debug)]
pub struct Machine {
    qemu: Child,
    disk: Option<JoinHandle<Disk>>,
    socket: PathBuf,
    nats_port: u16,
    http_port: u16,
    console: PathBuf,
    _socket_folder: TempDir,
}

impl Workshop {
    /// Builds the machine's first root file system.
    ///
    /// # Errors
    /// When a part is missing.
    pub fn set_up(durability: Durability) -> Result<Self> {
        let parts = env::var_os("EV_VM_PARTS")
            .map(PathBuf::from)
            .context("EV_VM_PARTS is not set; run this as `ops/dev faults power-cut`")?;
        let folder = workspace_root().join(".dev/power-cut");
        fs::create_dir_all(&folder).context("make a folder for machines")?;
        let lock = fs::File::create(folder.join("lock")).context("make a lock file")?;
        lock.try_lock()
            .context("another run uses .dev/power-cut; wait for its end")?;
        // The console of this run and not of all runs.
        fs::write(folder.join(CONSOLE), "").context("empty the machine's console")?;
        let root = folder.join("root.cpio");
        let keys = Keys::new()?;
        build_root(&parts, &root, &folder, durability, &keys)
            .context("build the machine's root")?;
        Ok(Self {
            kernel: parts.join("vmlinuz"),
            root,
            folder,
            keys,
            _lock: lock,
        })
    }

    /// A disk with an empty file system.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new_disk(&self) -> Result<Disk> {
        let path = self.folder.join("disk.img");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context("remove the last run's disk");
            }
            Ok(()) | Err(_) => {}
        }
        fs::File::create(&path)
            .and_then(|file| file.set_len(DISK_BYTES))
            .context("make a disk")?;
        succeed(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&path))?;
        Disk::open(&path).context("open the disk")
    }

    /// Switches a machine on.
    ///
    /// # Errors
    /// When the emulator does not start.
    pub fn boot(&self, disk: Disk) -> Result<Machine> {
        let socket_folder = TempDir::with_prefix("ev-disk-").context("make a folder")?;
        let socket = socket_folder.path().join("disk.sock");
        let listener = UnixListener::bind(&socket).context("listen for the machine")?;
        let disk = disk.serve(listener);
        let console = self.folder.join(CONSOLE);
        let (nats_port, http_port) = (free_port(), free_port());
        // The kernel kills the emulator should this program be killed.
        let qemu = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
            .args(["-accel", "tcg,thread=multi", "-smp", "2"])
            .args([
                "-machine",
                "pc",
                "-cpu",
                "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand",
            ])
            .args(["-m", &MEMORY_MIB.to_string()])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-display",
                "none",
            ])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.root)
            .args([
                "-append",
                "console=ttyS0 quiet panic=-1 random.trust_cpu=on",
            ])
            .arg("-chardev")
            .arg(format!(
                "file,id=console,append=on,path={}",
                console.display()
            ))
            .args(["-serial", "chardev:console"])
            .arg("-blockdev")
            .arg(format!(
                "driver=nbd,node-name=disk,server.type=unix,server.path={}",
                socket.display()
            ))
            .args(["-device", "virtio-blk-pci,drive=disk,write-cache=on"])
            .arg("-netdev")
            .arg(format!(
                "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{nats_port}-10.0.2.15:4222,\
                 hostfwd=tcp:127.0.0.1:{http_port}-10.0.2.15:8080"
            ))
            .args(["-device", "virtio-net-pci,netdev=net,romfile="])
            .stdin(Stdio::null())
            .spawn()
            .context("start qemu-system-x86_64")?;
        Ok(Machine {
            qemu,
            disk: Some(disk),
            socket,
            nats_port,
            http_port,
            console,
            _socket_folder: socket_folder,
        })
    }
}

impl Machine {
    /// Where its nats-server is.
    #[must_use]
    pub fn nats_url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.nats_port)
    }

    /// Waits until its central answers requests.
    ///
    /// # Errors
    /// When it does not, or the machine ends.
    pub async fn wait_until_it_serves(&mut self) -> Result<()> {
        let port = self.http_port;
        let ended = wait_for(
            "central in the machine is ready",
            BOOT_PATIENCE,
            async || {
                if let Some(status) = self.qemu.try_wait()? {
                    return Ok(Some(status));
                }
                let status = timeout(Duration::from_secs(3), http_status(port, "/readyz"))
                    .await
                    .context("no answer in time")??;
                ensure!(status == 200, "/readyz says {status}");
                Ok(None)
            },
        )
        .await
        .with_context(|| self.console_tail())?;
        if let Some(status) = ended {
            bail!("the emulator ended: {status}\n{}", self.console_tail());
        }
        Ok(())
    }

    /// Cuts its power: SIGKILL to the emulator. What is left is the disk.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn cut(mut self) -> Result<Disk> {
        self.switch_off()?;
        let disk = self.disk.take().context("a machine has a disk")?;
        disk.join()
            .map_err(|_| anyhow::anyhow!("the machine's disk panicked"))
    }

    fn switch_off(&mut self) -> Result<()> {
        self.qemu
            .kill()
            .and_then(|()| self.qemu.wait())
            .context("kill the machine")?;
        // One that never got to its disk leaves it waiting for a connection.
        drop(UnixStream::connect(&self.socket));
        Ok(())
    }

    fn console_tail(&self) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(CONSOLE_TAIL_LINES);
        format!("its console:\n{}", lines[from..].join("\n"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.switch_off() {
            eprintln!("{error:#}");
        }
    }
}

fn build_root(
    parts: &Path,
    root: &Path,
    folder: &Path,
    durability: Durability,
    keys: &Keys,
) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let mut archive = Archive::create(root).context("make the archive")?;
    archive.device("/dev/console", 5, 1)?;
    archive.file("/init", 0o755, include_bytes!("init.sh"))?;
    archive.file("/bin/busybox", 0o755, &read(&parts.join("busybox"))?)?;

    let mut modules: Vec<PathBuf> = fs::read_dir(parts.join("modules"))
        .context("list the kernel's modules")?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    modules.sort();
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("/modules/{name}"), 0o644, &read(&module)?)?;
    }

    for (program, path) in [
        ("nats-server", nats_server_program()?.to_owned()),
        ("central", our_program("central")?),
    ] {
        // Debug information is most of a program and must fit into memory.
        let stripped = folder.join(program);
        succeed(Command::new("strip").arg("-o").arg(&stripped).arg(&path))?;
        archive.file(&format!("/bin/{program}"), 0o755, &read(&stripped)?)?;
        for library in libraries(&path)? {
            archive.file(&library, 0o755, &read(Path::new(&library))?)?;
        }
    }

    for stem in ["single", "common", "auth"] {
        let name = format!("{stem}.conf");
        let shipped =
            fs::read_to_string(keys.conf(stem)).with_context(|| format!("read {name}"))?;
        let text = match durability {
            Durability::Shipped => shipped,
            Durability::ServerDefault => shipped
                .lines()
                .filter(|line| !line.trim_start().starts_with("sync_interval"))
                .fold(String::new(), |text, line| text + line + "\n"),
        };
        archive.file(&format!("/etc/nats/{name}"), 0o644, text.as_bytes())?;
    }
    for (name, mode, path) in [
        ("nats/server.crt", 0o644, keys.server().certificate.clone()),
        ("nats/server.key", 0o600, keys.server().key.clone()),
        ("nats/ca.crt", 0o644, keys.ca()),
        (
            "central.creds",
            0o600,
            keys.creds(Role::Central, "central-1")?,
        ),
        (
            "doorkeeper.creds",
            0o600,
            keys.creds(Role::Doorkeeper, "central-1")?,
        ),
    ] {
        archive.file(&format!("/etc/{name}"), mode, &read(&path)?)?;
    }
    archive.file("/etc/central.toml", 0o644, include_bytes!("central.toml"))?;
    archive.finish()?;
    Ok(())
}

/// The files that a program is linked with, the loader among them.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let listed = Command::new("ldd")
        .arg(program)
        .output()
        .context("run ldd")?;
    // One that is linked statically has none, and ldd calls that a failure.
    Ok(String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(str::to_owned)
        .collect())
}

fn succeed(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {shown}"))?;
    ensure!(
        output.status.success(),
        "{shown}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

async fn http_status(port: u16, path: &str) -> Result<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
        .await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    // "HTTP/1.0 200"
    let text = String::from_utf8_lossy(&head);
    text.rsplit(' ')
        .next()
        .unwrap_or_default()
        .parse()
        .with_context(|| format!("an answer that begins with {text:?}"))
}
