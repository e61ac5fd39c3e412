//! The server behind every tunnel: nginx with one worker.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use super::clients::{openssl, program};
use crate::support::{free_port, process::Process};

/// The file that a request for a small object gets, 1 KiB.
pub const SMALL: &str = "1k";
/// What a bulk transfer takes, and shorter ones.
pub const GIB: &str = "1g";
pub const QUARTER: &str = "256m";
pub const SIXTEENTH: &str = "64m";

/// An nginx that serves files.
pub struct Nginx {
    pub http: u16,
    pub https: u16,
    _process: Process,
}

impl Nginx {
    /// Starts it in `dir`, behind `prefix`, on every address that there is.
    pub fn start(dir: &Path, prefix: &[String]) -> Self {
        let (http, https) = (free_port(), free_port());
        let www = dir.join("www");
        fs::create_dir_all(&www).unwrap();
        fs::write(www.join(SMALL), "x".repeat(1024)).unwrap();
        for (name, mib) in [(GIB, 1024_u64), (QUARTER, 256), (SIXTEENTH, 64)] {
            File::create(www.join(name)).unwrap().set_len(mib << 20).unwrap();
        }
        let subject = "/CN=localhost";
        openssl(
            dir,
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-subj",
                subject,
                "-keyout",
                "nginx.key",
                "-out",
                "nginx.crt",
            ],
        );
        let at = dir.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {at}/{name};"))
            .concat();
        let config = format!(
            "worker_processes 1; master_process off; daemon off; pid {at}/nginx.pid; error_log {at}/nginx-errors.log;
events {{ worker_connections 8192; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; output_buffers 2 256k; {temporary}
server {{ listen 0.0.0.0:{http}; root {at}/www; }}
server {{ listen 0.0.0.0:{https} ssl; root {at}/www; ssl_certificate {at}/nginx.crt; ssl_certificate_key {at}/nginx.key; ssl_buffer_size 16k; }} }}
"
        );
        let file = dir.join("nginx.conf");
        fs::write(&file, config).unwrap();
        let mut command = within(prefix, &program("nginx").unwrap());
        command.arg("-p").arg(dir).arg("-c").arg(&file).arg("-e").arg(dir.join("nginx-errors.log"));
        Self { http, https, _process: Process::start("nginx", dir, &mut command) }
    }
}

/// A command behind a prefix such as nsenter's.
pub fn within(prefix: &[String], program: &Path) -> Command {
    match prefix {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    }
}
