package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// imageUser is the user of the image's process: neither root nor the overflow user,
// which an agent refuses.
const imageUser = "992:992"

// image writes an OCI image layout: one image for each architecture, with the command
// alone in it, that runs the agent.
func (r *release) image() error {
	dir := filepath.Join(r.out, "sealctx-"+r.version+"-image")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range r.arches {
		img, err := r.imageFor(arch)
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	_, err := layout.Write(dir, index)
	return err
}

func (r *release) imageFor(arch string) (v1.Image, error) {
	content, err := r.layer(arch)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), layer)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: r.time}
	config.Config = v1.Config{
		User: imageUser, WorkingDir: "/", Entrypoint: []string{"/usr/bin/sealctx"}, Cmd: []string{"agent", "--socket", "/run/sealctx/agent.sock"},
		Labels: map[string]string{"org.opencontainers.image.version": r.version, "org.opencontainers.image.revision": r.commit, "org.opencontainers.image.licenses": "Apache-2.0"},
	}
	return mutate.ConfigFile(img, config)
}

// layer is a tar of the command and of the directory of its socket.
func (r *release) layer(arch string) ([]byte, error) {
	binary, err := os.ReadFile(r.path(arch, "sealctx"))
	if err != nil {
		return nil, err
	}
	passwd := []byte("root:x:0:0:root:/:/\nsealctx:x:992:992:sealctx agent:/:/\n")
	group := []byte("root:x:0:\nsealctx:x:992:\n")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct {
		name     string
		mode     int64
		owner    int
		contents []byte
	}{
		{"etc/", 0o755, 0, nil}, {"etc/passwd", 0o644, 0, passwd}, {"etc/group", 0o644, 0, group},
		{"run/", 0o755, 0, nil}, {"run/sealctx/", 0o755, 992, nil},
		{"usr/", 0o755, 0, nil}, {"usr/bin/", 0o755, 0, nil}, {"usr/bin/sealctx", 0o755, 0, binary},
	} {
		h := &tar.Header{Name: f.name, Mode: f.mode, Uid: f.owner, Gid: f.owner, Size: int64(len(f.contents)), ModTime: r.time, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if f.contents == nil {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.contents); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}
