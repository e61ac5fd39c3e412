//! Obtains the Kubernetes binaries that the tests and benchmarks run against: from `KUBEBUILDER_ASSETS` if that is
//! set, as the ecosystem's envtest tools do, else built from the Go module proxy into a cache outside `target/`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// The Kubernetes release that the tests run against and whose API documents are embedded.
/// `xtask/kubernetes/apiserver/go.mod` pins the same.
pub(crate) const KUBERNETES_VERSION: &str = "1.37.2";

const BINARIES: &[&str] = &["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"];

/// The directory with all of `BINARIES`, or `None` when there is neither a directory of the user's nor a Go toolchain.
pub(crate) fn assets(root: &Path) -> Result<Option<PathBuf>> {
    if let Some(dir) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) {
        for binary in BINARIES {
            if !dir.join(binary).is_file() {
                bail!("KUBEBUILDER_ASSETS is {} but there is no {binary} in it", dir.display());
            }
        }
        return Ok(Some(dir));
    }
    if Command::new("go").arg("version").output().is_err() {
        return Ok(None);
    }
    build(root).map(Some)
}

/// What stands in for the kubelets of the tests' clusters, in `xtask/kubernetes/kubelet`.
const KUBELET: &str = "kubelet-stand-in";

/// The program that stands in for a kubelet: what `HANSA_KUBELET` names if that is set, else built; `None` without a Go toolchain.
pub(crate) fn kubelet(root: &Path) -> Result<Option<PathBuf>> {
    if let Some(program) = env::var_os("HANSA_KUBELET").map(PathBuf::from) {
        return Ok(Some(program));
    }
    if Command::new("go").arg("version").output().is_err() {
        return Ok(None);
    }
    let cache = cache_dir()?.join("kubernetes").join(KUBERNETES_VERSION);
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let lock = fs::File::create(cache.join("lock"))?;
    lock.lock().context("cannot lock the cache")?;
    go_build(&root.join("xtask/kubernetes/kubelet"), &cache, "-s -w", &[(KUBELET, ".")])?;
    Ok(Some(cache.join(KUBELET)))
}

/// The KubeFed release that Hansa takes the place of, which the tests use as a client, a predecessor and a peer.
const KUBEFED_VERSION: &str = "0.10.0";

const KUBEFED: &[(&str, &str)] = &[
    ("kubefedctl", "sigs.k8s.io/kubefed/cmd/kubefedctl"),
    ("kubefed-controller-manager", "sigs.k8s.io/kubefed/cmd/controller-manager"),
    ("kubefed-webhook", "sigs.k8s.io/kubefed/cmd/webhook"),
];

/// Its CRDs, in its source.
const KUBEFED_CRDS: &str = "charts/kubefed/charts/controllermanager/crds/crds.yaml";

/// The directory with the genuine programs of KubeFed and its CRDs (`crds.yaml`): `HANSA_KUBEFED_ASSETS` if that is set, else built; `None` without a Go
/// toolchain.
pub(crate) fn kubefed(root: &Path) -> Result<Option<PathBuf>> {
    if let Some(dir) = env::var_os("HANSA_KUBEFED_ASSETS").map(PathBuf::from) {
        return Ok(Some(dir));
    }
    if Command::new("go").arg("version").output().is_err() {
        return Ok(None);
    }
    let cache = cache_dir()?.join("kubefed").join(KUBEFED_VERSION);
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let lock = fs::File::create(cache.join("lock"))?;
    lock.lock().context("cannot lock the cache")?;
    let module = root.join("xtask/kubernetes/kubefed");
    go_build(&module, &cache, "-s -w", KUBEFED)?;
    let found = Command::new("go")
        .current_dir(&module)
        .env("GOWORK", "off")
        .args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kubefed"])
        .output()?;
    let source = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
    let crds = source.join(KUBEFED_CRDS);
    fs::copy(&crds, cache.join("crds.yaml")).with_context(|| crds.display().to_string())?;
    Ok(Some(cache))
}

/// Builds what the cache lacks. The cache is keyed by the pinned modules, and a lock keeps parallel runs apart.
fn build(root: &Path) -> Result<PathBuf> {
    let cache = cache_dir()?.join("kubernetes").join(KUBERNETES_VERSION);
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let lock = fs::File::create(cache.join("lock"))?;
    lock.lock().context("cannot lock the cache")?;
    let modules = root.join("xtask/kubernetes");
    let version = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion=v{KUBERNETES_VERSION} \
         -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37 \
         -X k8s.io/client-go/pkg/version.gitVersion=v{KUBERNETES_VERSION}"
    );
    go_build(&modules.join("etcd"), &cache, "-s -w", &[("etcd", "go.etcd.io/etcd/server/v3")])?;
    let kubernetes: Vec<_> =
        BINARIES[1..].iter().map(|b| (*b, format!("k8s.io/kubernetes/cmd/{b}"))).collect();
    let kubernetes: Vec<_> = kubernetes.iter().map(|(name, package)| (*name, package.as_str())).collect();
    go_build(&modules.join("apiserver"), &cache, &version, &kubernetes)?;
    Ok(cache)
}

fn go_build(module: &Path, cache: &Path, ldflags: &str, binaries: &[(&str, &str)]) -> Result<()> {
    // The pins decide whether a cached binary is the one asked for, and so does a program of our own.
    let mut pins = fs::read(module.join("go.mod"))?;
    for source in own_sources(module)? {
        pins.extend(fs::read(source)?);
    }
    let stamp = cache.join(format!("{}.go.mod", module.file_name().unwrap_or_default().to_string_lossy()));
    let cached = binaries.iter().all(|(name, _)| cache.join(name).is_file());
    if cached && fs::read(&stamp).is_ok_and(|stamped| stamped == pins) {
        return Ok(());
    }
    for (name, package) in binaries {
        eprintln!("building {name} {package} (minutes on a cold cache, once)");
        let started = Instant::now();
        let unfinished = cache.join(format!("{name}.new"));
        let status = Command::new("go")
            .current_dir(module)
            .envs([("CGO_ENABLED", "0"), ("GOWORK", "off")])
            .args(["build", "-mod=readonly", "-trimpath", "-ldflags", ldflags, "-o"])
            .args([unfinished.as_os_str(), package.as_ref()])
            .status()?;
        if !status.success() {
            bail!("go build {package} failed: {status}");
        }
        fs::rename(&unfinished, cache.join(name))?;
        eprintln!("built {name} in {:.0} s", started.elapsed().as_secs_f64());
    }
    fs::write(stamp, pins)?;
    Ok(())
}

/// The Go files of a module's own program; `tools.go` only names other modules' programs.
fn own_sources(module: &Path) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(module)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let own = |path: &PathBuf| path.extension().is_some_and(|e| e == "go") && !path.ends_with("tools.go");
    let mut sources: Vec<_> = files.into_iter().filter(own).collect();
    sources.sort();
    Ok(sources)
}

pub(crate) fn cache_dir() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("hansa"))
}
