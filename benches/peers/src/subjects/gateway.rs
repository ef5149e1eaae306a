//! This gateway: the production binary, with settings of the bench.

use super::{Behind, Bench, Subject};
use crate::load::{ACCESS_KEY, BUCKET, SECRET_KEY};
use crate::process::Process;
use crate::{Result, tls};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

/// How a gateway is set up; what is not said is as settings/default.yaml has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// What goals and plots call it.
    pub(crate) key: &'static str,
    /// What tables call it.
    pub(crate) label: &'static str,
    pub(crate) workers: u32,
    /// `server.zero_copy.enabled`.
    pub(crate) splice: bool,
    /// `auth.enabled`.
    pub(crate) auth: bool,
    /// `upload.split`: never if false.
    pub(crate) split: bool,
    /// TLS for clients and to the sink.
    pub(crate) behind: Behind,
    /// Nothing listens where its backend should be.
    pub(crate) away: bool,
    /// Lines of YAML at the top level.
    pub(crate) more: &'static str,
    /// Lines of YAML in `upload`.
    pub(crate) upload: &'static str,
    /// A limit of its memory, MiB.
    pub(crate) limit: Option<u64>,
}

/// Where nothing listens: the port of the discard service (RFC 863), which no sink is given.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

impl Settings {
    /// One worker, splice, replay in memory, one PutObject stays one.
    pub(crate) const fn new(key: &'static str, label: &'static str) -> Settings {
        let behind = Behind::Plain;
        Settings {
            key,
            label,
            workers: 1,
            splice: true,
            auth: true,
            split: false,
            behind,
            away: false,
            more: "",
            upload: "",
            limit: None,
        }
    }

    fn yaml(&self, sink: SocketAddr, folder: &Path, certificates: &Path) -> Result<String> {
        let has_tls = self.behind == Behind::Tls;
        let mut text = format!(
            "server:\n  address: 127.0.0.1:0\n  workers: {}\n  state_directory: {}\n  zero_copy:\n    enabled: {}\n",
            self.workers,
            folder.join("state").display(),
            self.splice
        );
        if has_tls {
            let (cert, key) = (tls::certificate_file(certificates), tls::key_file(certificates));
            let (cert, key) = (cert.display(), key.display());
            write!(text, "  tls:\n    cert_file: {cert}\n    key_file: {key}\n")?;
        }
        let sink = if self.away { NOBODY } else { sink };
        let scheme = if has_tls { "https" } else { "http" };
        write!(
            text,
            "admin:\n  address: 127.0.0.1:0\n{}\
             buckets:\n  - name: {BUCKET}\n    s3:\n      region: us-east-1\n      \
             endpoint: {scheme}://{sink}\n      access_key: sink\n      secret_key: sink\n",
            self.more
        )?;
        if has_tls {
            let authority = tls::authority_file(certificates);
            write!(text, "      tls:\n        ca_file: [{}]\n", authority.display())?;
        }
        let whole = "      split: never\n      max_object_size: 5GiB\n";
        let upload = [if self.split { "" } else { whole }, self.upload].concat();
        if !upload.is_empty() {
            write!(text, "    upload:\n{upload}")?;
        }
        write!(
            text,
            "    auth:\n      enabled: {}\n      sigv4:\n        credentials:\n          \
             - access_key: {ACCESS_KEY}\n            secret_key: {SECRET_KEY}\n",
            self.auth
        )?;
        Ok(text)
    }
}

/// How memory is limited here: the words before a command, and what to say of them.
pub(crate) fn limits(mib: u64) -> (Vec<String>, &'static str) {
    if Path::new("/run/systemd/system").is_dir() {
        let max = format!("MemoryMax={mib}M");
        let words = ["systemd-run", "--quiet", "--scope", "-p", &max, "-p", "MemorySwapMax=0"];
        return (words.map(str::to_owned).to_vec(), "a cgroup made by systemd-run");
    }
    let words = vec!["prlimit".to_owned(), format!("--data={}", mib << 20)];
    let text = "NOT A CGROUP: no systemd here, so RLIMIT_DATA limits the process's own private \
                memory, but not the kernel's socket buffers";
    (words, text)
}

impl Bench {
    /// Starts one in front of the subject's sink.
    pub(super) fn gateway(&self, settings: &Settings, subject: &mut Subject) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("settings.yaml");
        std::fs::write(&file, settings.yaml(subject.sink, folder.path(), self.certificates())?)?;
        let mut words = settings.limit.map(|mib| limits(mib).0).unwrap_or_default();
        words.push(self.binary.to_string_lossy().into_owned());
        let (program, rest) = words.split_first().ok_or("no program")?;
        let mut command = Command::new(program);
        command.args(rest).args(["serve", "--settings"]).arg(&file);
        let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::piped()))?;
        let mut listeners = [None; 2];
        process.find_in_log(|line| {
            for (mark, found) in ["uploads on ", "admin on "].iter().zip(&mut listeners) {
                if let Some((_, rest)) = line.split_once(mark) {
                    let address = rest.split_once("://").map_or(rest, |(_, address)| address);
                    let end = address.find(|c: char| c.is_whitespace() || c == '/');
                    *found =
                        address.get(..end.unwrap_or(address.len()))?.parse::<SocketAddr>().ok();
                }
            }
            listeners.iter().all(Option::is_some).then_some(())
        })?;
        let [Some(address), admin] = listeners else { return Err("no listener".into()) };
        subject.address = address;
        subject.admin = admin;
        subject.verifies = settings.auth;
        subject.process = Some(process);
        subject._folder = Some(folder);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn settings_name_what_they_change() {
        let sink = "127.0.0.1:9".parse().unwrap();
        let (folder, certificates) = (Path::new("/f"), Path::new("/c"));
        let plain = Settings::new("gw", "x").yaml(sink, folder, certificates).unwrap();
        assert!(plain.contains("endpoint: http://127.0.0.1:9\n") && plain.contains("split: never"));
        let settings = Settings { behind: Behind::Tls, split: true, ..Settings::new("gw", "x") };
        let tls = settings.yaml(sink, folder, certificates).unwrap();
        assert!(tls.contains("endpoint: https://127.0.0.1:9\n") && !tls.contains("split"));
        assert!(tls.contains("ca_file: [/c/authority.pem]"));
    }
}
