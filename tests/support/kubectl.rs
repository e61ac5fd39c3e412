//! kubectl, the client of every scenario.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

#[derive(Clone, Debug)]
pub struct Kubectl {
    binary: PathBuf,
    pub kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    pub fn new(kubeconfig: &Path) -> Self {
        Self {
            binary: env::var_os("KUBEBUILDER_ASSETS")
                .map_or("kubectl".into(), |dir| PathBuf::from(dir).join("kubectl")),
            kubeconfig: kubeconfig.to_owned(),
            // A discovery cache of its own: tests change what is served.
            cache: kubeconfig.with_extension("cache"),
        }
    }

    pub fn command(&self, context: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--cache-dir").arg(&self.cache);
        if !context.is_empty() {
            command.args(["--context", context]);
        }
        command.args(args).env_remove("KUBECONFIG").current_dir(super::root());
        command
    }

    pub fn run(&self, context: &str, args: &[&str], input: &str) -> Output {
        let mut command = self.command(context, args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| {
                panic!("cannot run {}: {e}; `cargo xtask k8s` obtains it", self.binary.display())
            });
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// Runs and expects success; returns what was printed.
    pub fn ok(&self, context: &str, args: &[&str]) -> String {
        self.try_run(context, args).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Runs; the error is a message with everything needed to see why.
    pub fn try_run(&self, context: &str, args: &[&str]) -> Result<String, String> {
        told(context, args, &self.run(context, args, ""))
    }

    /// Runs and expects failure; returns the error output.
    pub fn fails(&self, context: &str, args: &[&str]) -> String {
        self.fails_with(context, args, "")
    }

    pub fn fails_with(&self, context: &str, args: &[&str], input: &str) -> String {
        let output = self.run(context, args, input);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success(),
            "kubectl --context {context} {args:?} should fail but said: {text}"
        );
        text
    }

    /// `get … -o json`.
    pub fn json(&self, context: &str, args: &[&str]) -> Result<Value, String> {
        let text = self.try_run(context, &[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).map_err(|e| format!("{args:?}: {e}"))
    }

    /// `get` one field by JSONPath.
    pub fn field(&self, context: &str, namespace: &str, object: &str, path: &str) -> Result<String, String> {
        self.try_run(context, &["get", "-n", namespace, object, "-o", &format!("jsonpath={{{path}}}")])
    }

    pub fn apply(&self, context: &str, manifest: &str) {
        let args = ["apply", "-f", "-"];
        told(context, &args, &self.run(context, &args, manifest))
            .unwrap_or_else(|e| panic!("{e}\n{manifest}"));
    }

    pub fn merge(&self, context: &str, namespace: &str, object: &str, patch: &str) {
        self.ok(context, &["patch", "-n", namespace, object, "--type=merge", "-p", patch]);
    }

    /// Whether the object is absent: NotFound and no other failure.
    pub fn absent(&self, context: &str, namespace: &str, object: &str) -> Result<(), String> {
        match self.try_run(context, &["get", "-n", namespace, object, "-o", "name"]) {
            Err(error) if error.contains("NotFound") => Ok(()),
            other => Err(format!("{object} in {context}: {other:?}")),
        }
    }
}

fn told(context: &str, args: &[&str], output: &Output) -> Result<String, String> {
    let out = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(out.into_owned());
    }
    let err = String::from_utf8_lossy(&output.stderr);
    Err(format!("kubectl --context {context} {args:?}: {}\n{out}{err}", output.status))
}
