//! The peers, each configured to forward bodies as they come, with one thread.

use super::{Bench, Spec};
use crate::load::{ACCESS_KEY, SECRET_KEY};
use crate::process::{Process, free_address};
use crate::{Result, machine, tls};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where a program is: in the folder of the peers, or on PATH.
fn find(installed: &Path, name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = vec![installed.join("bin")];
    folders.extend(std::env::split_paths(&path));
    // Debian's servers are where a user's PATH may not look.
    folders.push(PathBuf::from("/usr/sbin"));
    folders.into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Pipes that HAProxy may have, two descriptors each.
const HAPROXY_PIPES: u64 = 2048;
/// Descriptors of HAProxy beside those of connections and pipes.
const HAPROXY_OWN: u64 = 500;

/// Most connections of HAProxy: it does not start if it could not have the descriptors of all, and of
/// as many to its servers.
pub(crate) fn haproxy_connections(descriptors: u64) -> u64 {
    (descriptors.saturating_sub(2 * HAPROXY_PIPES + HAPROXY_OWN) / 2).min(20_000)
}

/// A configuration of HAProxy.
fn haproxy(
    listen: SocketAddr,
    sink: SocketAddr,
    (pipes, threads, connections): (Option<u32>, u32, u64),
    certificates: Option<&Path>,
) -> String {
    let pipes = pipes.map(|bytes| format!("  tune.pipesize {bytes}\n")).unwrap_or_default();
    let (bind, server) = match certificates {
        None => (String::new(), String::new()),
        Some(folder) => (
            format!(" ssl crt {}", tls::bundle_file(folder).display()),
            format!(" ssl verify required ca-file {}", tls::authority_file(folder).display()),
        ),
    };
    format!(
        "global\n  nbthread {threads}\n  maxconn {connections}\n  maxpipes {HAPROXY_PIPES}\n{pipes}defaults\n  mode http\n  \
         option splice-request\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         frontend f\n  bind {listen}{bind}\n  default_backend b\nbackend b\n  server s {sink}{server}\n"
    )
}

/// A configuration of nginx.
fn nginx(
    listen: SocketAddr,
    sink: SocketAddr,
    folder: &Path,
    certificates: Option<&Path>,
) -> String {
    let folder = folder.display();
    let (ssl, scheme, server) = match certificates {
        None => ("", "http", String::new()),
        Some(certificates) => (
            " ssl",
            "https",
            format!(
                "    ssl_certificate {};\n    ssl_certificate_key {};\n    \
                 proxy_ssl_verify on;\n    proxy_ssl_trusted_certificate {};\n    proxy_ssl_name localhost;\n    \
                 proxy_ssl_protocols TLSv1.2 TLSv1.3;\n    ssl_protocols TLSv1.2 TLSv1.3;\n",
                tls::certificate_file(certificates).display(),
                tls::key_file(certificates).display(),
                tls::authority_file(certificates).display()
            ),
        ),
    };
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {folder}/pid;\nerror_log stderr crit;\n\
         worker_rlimit_nofile 20000;\nevents {{ worker_connections 15000; }}\nhttp {{\n  access_log off;\n  \
         client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n  fastcgi_temp_path {folder}/f;\n  \
         uwsgi_temp_path {folder}/u;\n  scgi_temp_path {folder}/s;\n  client_max_body_size 0;\n  \
         keepalive_requests 100000000;\n  upstream sink {{ server {sink}; keepalive 1024; \
         keepalive_requests 100000000; }}\n  server {{\n    listen {listen}{ssl};\n{server}    location / {{\n      \
         proxy_pass {scheme}://sink;\n      proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      \
         proxy_set_header Host $http_host;\n      proxy_request_buffering off;\n    }}\n  }}\n}}\n"
    )
}

impl Bench {
    /// Starts a peer; None if it is not installed.
    pub(super) fn peer(
        &self,
        spec: &Spec,
        sink: SocketAddr,
        folder: &Path,
    ) -> Result<Option<(Process, SocketAddr)>> {
        let address = free_address()?;
        let certificates = Some(self.certificates());
        let connections = haproxy_connections(machine::descriptors()?);
        let (program, configuration) = match spec {
            Spec::Haproxy { pipes, threads, tls } => {
                let certificates = certificates.filter(|_| *tls);
                ("haproxy", haproxy(address, sink, (*pipes, *threads, connections), certificates))
            }
            Spec::Nginx { tls } => {
                ("nginx", nginx(address, sink, folder, certificates.filter(|_| *tls)))
            }
            Spec::S3s => ("s3s-proxy", String::new()),
            Spec::Pingora => ("mizuchi-bench-pingora", String::new()),
            _ => return Err("no peer".into()),
        };
        let Some(program) = find(&self.installed, program) else { return Ok(None) };
        let file = folder.join("configuration");
        std::fs::write(&file, configuration)?;
        let mut command = Command::new(program);
        match spec {
            Spec::Haproxy { .. } => command.args(["-db", "-f"]).arg(&file),
            Spec::Nginx { .. } => command.arg("-p").arg(folder).arg("-c").arg(&file),
            Spec::S3s => command
                .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
                .args(["--endpoint-url", &format!("http://{sink}")])
                .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
                .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
                .env("AWS_REGION", "us-east-1")
                .env("AWS_EC2_METADATA_DISABLED", "true")
                .env("TOKIO_WORKER_THREADS", "1")
                .env("RUST_LOG", "off"),
            _ => command.args([address.to_string(), sink.to_string()]),
        };
        let mut process = Process::start(command.stdout(Stdio::null()))
            .map_err(|error| format!("{}: {error}", spec.label()))?;
        process.wait_for(address).map_err(|error| format!("{}: {error}", spec.label()))?;
        Ok(Some((process, address)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn configurations_say_what_was_asked_for() {
        let (listen, sink) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let text = haproxy(listen, sink, (Some(1 << 20), 2, 100), None);
        assert_eq!(haproxy_connections(65_536), 20_000);
        assert!(haproxy_connections(20_000) * 2 + 2 * HAPROXY_PIPES < 20_000);
        assert!(text.contains("tune.pipesize 1048576\n") && text.contains("nbthread 2\n"));
        assert!(text.contains("option splice-request\n") && !text.contains("ssl"));
        let text = haproxy(listen, sink, (None, 1, 100), Some(Path::new("/c")));
        assert!(text.contains("bind 127.0.0.1:1 ssl crt /c/bundle.pem\n"));
        assert!(text.contains("verify required ca-file /c/authority.pem\n"));
        let text = nginx(listen, sink, Path::new("/f"), None);
        assert!(text.contains("proxy_request_buffering off;") && text.contains("http://sink;"));
        assert!(
            nginx(listen, sink, Path::new("/f"), Some(Path::new("/c"))).contains("https://sink")
        );
    }
}
