package lzma

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
)

// samples are data of many kinds: empty, one byte, runs, noise, text, a program.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	program, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	noise, words := make([]byte, 100_000), []byte(nil)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	for len(words) < 200_000 {
		words = append(words, noise[random.IntN(50)*7:][:1+random.IntN(20)]...)
	}
	return map[string][]byte{
		"nothing": {}, "a byte": {7}, "a run": bytes.Repeat([]byte{1}, 70_000), "noise": noise,
		"words": words, "a program": program,
	}
}

func TestWhatIsPackedComesBack(t *testing.T) {
	all := samples(t)
	for name, data := range all {
		for with, dictionary := range all {
			packed := Pack(data, dictionary)
			if n, err := Size(packed); n != len(data) || err != nil {
				t.Errorf("%s: size %d, %v", name, n, err)
			}
			out := make([]byte, len(data))
			if err := Unpack(out, packed, dictionary); err != nil || !bytes.Equal(out, data) {
				t.Errorf("%s packed with %s: %v", name, with, err)
			}
			if with == name && len(packed) > 100+len(data)/100 {
				t.Errorf("%s packed with itself has %d bytes of %d", name, len(packed), len(data))
			}
		}
	}
}

// TestXZUnderstandsTheStream compares with xz, which knows no dictionary.
func TestXZUnderstandsTheStream(t *testing.T) {
	for name, data := range samples(t) {
		xz := func(input []byte, arg string) ([]byte, error) {
			cmd := exec.Command("xz", "--format=raw", "--lzma1=lc=3,lp=0,pb=0,dict=1MiB", arg)
			cmd.Stdin = bytes.NewReader(input)
			return cmd.Output()
		}
		// It misses an end marker, having written all there is.
		if out, _ := xz(Encode(data, nil), "-dc"); !bytes.Equal(out, data) {
			t.Errorf("%s: xz reads %d bytes of %d", name, len(out), len(data))
		}
		theirs, err := xz(data, "-c")
		if err != nil {
			t.Fatal(err)
		}
		out := make([]byte, len(data))
		if err := Decode(out, nil, theirs); err != nil || !bytes.Equal(out, data) {
			t.Errorf("%s as xz writes it: %v", name, err)
		}
	}
}

func TestWhatIsWrongIsAnError(t *testing.T) {
	data := samples(t)["words"]
	packed := Pack(data, nil)
	out := make([]byte, len(data))
	for name, file := range map[string][]byte{
		"nothing": nil, "a text": []byte("#!/bin/sh\nexit 0\n# and so on"),
		"the first half": packed[:len(packed)/2], "a header alone": packed[:headerSize],
	} {
		if err := Unpack(out, file, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := Unpack(out, Pack(data, data), samples(t)["noise"]); !errors.Is(err, errSum) && !errors.Is(err, ErrCorrupt) {
		t.Errorf("another dictionary: %v", err)
	}
	if err := Unpack(out[1:], packed, nil); err == nil {
		t.Error("another size: no error")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode([]byte("abcabcabc"), []byte("abc")), []byte("abc"), uint16(9))
	f.Fuzz(func(_ *testing.T, stream, dictionary []byte, size uint16) {
		_ = Decode(make([]byte, size), dictionary, stream)
	})
}

func FuzzEncode(f *testing.F) {
	f.Add([]byte("abcabcabc"), []byte("abc"))
	f.Fuzz(func(t *testing.T, data, dictionary []byte) {
		out := make([]byte, len(data))
		if err := Decode(out, dictionary, Encode(data, dictionary)); err != nil || !bytes.Equal(out, data) {
			t.Errorf("%v", err)
		}
	})
}
