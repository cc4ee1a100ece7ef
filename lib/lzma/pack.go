package lzma

import (
	"encoding/binary"
	"errors"
)

// magic begins a packed file; the size and the sum of what is in it follow.
const magic = "KATALZM1"

// headerSize is that of magic, size and sum.
const headerSize = len(magic) + 16

// MaxSize bounds what a packed file holds, in bytes.
const MaxSize = 64 << 20

var (
	errNotPacked = errors.New("not a packed file")
	errSum       = errors.New("the sum is wrong: the file is damaged, or was packed for another dictionary")
)

// Pack returns a file that [Unpack] and the same dictionary make data of.
func Pack(data, dictionary []byte) []byte {
	file := binary.LittleEndian.AppendUint64([]byte(magic), uint64(len(data)))
	file = binary.LittleEndian.AppendUint64(file, sum(data))
	return append(file, Encode(data, dictionary)...)
}

// Size returns the size of what a packed file holds.
func Size(file []byte) (int, error) {
	if len(file) < headerSize || string(file[:len(magic)]) != magic {
		return 0, errNotPacked
	}
	n := binary.LittleEndian.Uint64(file[len(magic):])
	if n > MaxSize {
		return 0, errNotPacked
	}
	return int(n), nil
}

// Unpack fills dst, which has the Size of the file.
func Unpack(dst, file, dictionary []byte) error {
	n, err := Size(file)
	if err != nil {
		return err
	}
	if n != len(dst) {
		return errNotPacked
	}
	if err := Decode(dst, dictionary, file[headerSize:]); err != nil {
		return err
	}
	if sum(dst) != binary.LittleEndian.Uint64(file[len(magic)+8:]) {
		return errSum
	}
	return nil
}

// sum is FNV-1a, which finds what is damaged, not what is forged.
func sum(data []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range data {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}
