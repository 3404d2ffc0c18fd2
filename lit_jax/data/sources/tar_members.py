"""The members of a tar file, read from beginning to end; nothing is skipped silently."""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from lit_jax.utils.errors import first_line
from lit_jax.utils.file_signatures import looks_like

_BLOCK = 512  # Bytes; headers and data of members start at multiples of it.
_BUFFER = 1 << 14
_REMEDY = "the file is cut off or damaged: fetch it again, pack it anew, or leave it out"


class TarDamage(Exception):
    """Something that does not belong in a tar file: at which byte it is, what was found, and the remedy."""

    def __init__(self, at: int, found: str, remedy: str):
        super().__init__(f"{found}; {remedy}")
        self.at = at


class Hashed:
    """A file opened by fsspec; everything that is read from it is counted and hashed."""

    def __init__(self, file: Any):
        self.digest = hashlib.sha256()
        self.size = 0
        self.head = b""  # The first and the last block.
        self.tail = b""
        self._file = file

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        self.size += len(data)
        self.head = self.head or data[:_BLOCK]
        self.tail = data[-_BLOCK:] if len(data) >= _BLOCK else (self.tail + data)[-_BLOCK:]
        return data


class TarMembers:
    """The members of a tar file, in order; iterating reads it once, to its end.

    A tar file ends with blocks of zeros. If headers follow them, as in files that were joined by `cat`, the members go
    on, and `continued` holds the byte of each such header. `unended` is true for a file that ends without zeros, and
    `zeros` counts the zero bytes at its end. Raises `TarDamage` where a block is neither zero nor the header of a
    member, and where the file is cut off.
    """

    def __init__(self, file: Hashed):
        self.continued: list[int] = []
        self.unended = False
        self.zeros = 0
        self._file = file
        self._zeros = False  # Whether the last block that was read is zero.
        self._start = 0  # Where the zeros start.
        self._inside = False
        self._tar: Any = None

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        members = self

        class Member(tarfile.TarInfo):
            @classmethod
            def fromtarfile(cls, tar: Any) -> Any:
                return members._header(super().fromtarfile, tar)

            # tarfile takes zeros in place of a long name, or of attributes, as if there were none.
            def _proc_pax(self, tar: Any) -> Any:
                member = super()._proc_pax(tar)  # type: ignore[misc]
                lost = self.type != tarfile.XGLTYPE and member.pax_headers == tar.pax_headers
                return self._described(member, lost and self.size > 0)

            def _proc_gnulong(self, tar: Any) -> Any:
                member = super()._proc_gnulong(tar)  # type: ignore[misc]
                return self._described(member, not (member.name and (member.linkname or not member.issym())))

            def _described(self, member: Any, lost: bool) -> Any:
                if lost or "\0" in member.name:
                    raise TarDamage(self.offset, "a long name or attributes that are lost", _REMEDY)
                return member

        name = ""
        try:
            # Zeros are ignored, so that the members after them are read; `_header` refuses everything else.
            with tarfile.open(
                fileobj=self._file,  # type: ignore[call-overload]
                mode="r|",
                bufsize=_BUFFER,
                ignore_zeros=True,
                tarinfo=Member,
                encoding="utf-8",
                errors="backslashreplace",  # Distinct names stay distinct.
            ) as self._tar:
                while (member := self._tar.next()) is not None:
                    self._tar.members = []  # Otherwise it keeps all members in memory.
                    name = member.name
                    yield member
        except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as e:
            raise self._damage(name, e) from e
        while self._file.read(1 << 20):
            pass
        self.unended = not self._zeros
        self.zeros = self._file.size - self._start if self._zeros else 0

    def start(self, member: tarfile.TarInfo, size: int) -> bytes:
        """The first `size` bytes of the member that was read last; they can be read once."""
        self._tar.fileobj.seek(member.offset_data)
        return self._tar.fileobj.read(min(size, member.size))

    def _header(self, read: Callable[[Any], Any], tar: Any) -> Any:
        """The next member, from `read`. Raises the errors of tarfile that mean an end, and `TarDamage`."""
        if self._inside:  # The header after a long name; both together are one member.
            return read(tar)
        at = tar.fileobj.tell()
        self._inside = True
        try:
            member = read(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            self._start = self._start if self._zeros else at
            self._zeros = True
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.TruncatedHeaderError as e:  # type: ignore[attr-defined]
            if not any(self._file.tail[-(self._file.size % _BLOCK) :]):
                self._zeros = True
                raise tarfile.EmptyHeaderError("zeros") from e  # type: ignore[attr-defined]
            raise self._no_header(at, "a part of a block") from e
        except tarfile.SubsequentHeaderError as e:  # type: ignore[attr-defined]
            raise TarDamage(at, "a long name or attributes without the header of a member", _REMEDY) from e
        except tarfile.HeaderError as e:
            raise self._no_header(at, "a block") from e
        finally:
            self._inside = False
        if member.size < 0:
            raise TarDamage(at, f"a header that gives the size {member.size}", _REMEDY)
        if self._zeros:
            self.continued.append(at)
        self._zeros = False
        return member

    def _no_header(self, at: int, block: str) -> TarDamage:
        if at == 0:
            what = looks_like(self._file.head) or "pack its files with tar"
            return TarDamage(at, "it is no tar file", what)
        after = "zeros, which end a tar file, and then " if self._zeros else ""
        return TarDamage(at, f"{after}{block} that is not the header of a member", _REMEDY)

    def _damage(self, name: str, error: Exception) -> TarDamage:
        """What an error that tarfile raises after the member `name` means."""
        if not self._file.size:
            return TarDamage(0, "it is no tar file", looks_like(b"") or "")
        if isinstance(error, tarfile.ReadError):  # The next header lies beyond the end of the file.
            what = f"the file is cut off in {name!r}" if name else "the file is cut off"
            return TarDamage(self._file.size, what, "fetch it again")
        return TarDamage(
            self._tar.offset if self._tar else 0,
            f"a header that cannot be read ({first_line(error)})",
            _REMEDY,
        )
