"""The points of Annex IV, as data: what each asks, in our words.

The identifiers are the law's own (``1(a)`` ... ``9``); titles and `asks` are condensed
and never a substitute for the text that the bundle's regime names.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One point of Annex IV.

    Attributes:
        id: ``1(a)``, ..., ``9``.
        title: A few words.
        asks: What the documentation must say there, condensed.
        articles: Articles of the Act that the point leads to.
    """

    id: str
    title: str
    asks: str
    articles: tuple[str, ...] = ()


POINTS: tuple[Point, ...] = (
    Point(
        "1(a)",
        "Intended purpose, provider, version",
        "Intended purpose, name of the provider, version of the system and its relation to previous versions.",
        ("Art. 13(3)(b)(i)", "Art. 16(b)"),
    ),
    Point(
        "1(b)",
        "Interaction with other systems",
        "How the system interacts, or can be used to interact, with hardware, software and other AI systems.",
    ),
    Point(
        "1(c)",
        "Software versions and updates",
        "Versions of relevant software or firmware, and requirements on version updates.",
    ),
    Point(
        "1(d)",
        "Forms placed on the market",
        "All forms in which the system is placed on the market or put into service: packages, downloads, APIs.",
    ),
    Point("1(e)", "Hardware", "The hardware on which the system is intended to run."),
    Point(
        "1(f)",
        "Photographs of the product",
        "Where the system is a component of products: external features, marking and internal layout.",
    ),
    Point("1(g)", "User interface", "A basic description of the user interface given to the deployer."),
    Point(
        "1(h)",
        "Instructions for use",
        "Instructions for use for the deployer, and a basic description of the user interface where applicable.",
        ("Art. 13",),
    ),
    Point(
        "2(a)",
        "Methods and steps of development",
        "Methods and steps, including pre-trained systems or tools of third parties and how they were used or changed.",
    ),
    Point(
        "2(b)",
        "Design specifications",
        "General logic, key design choices with rationale and assumptions, what the system optimises for, "
        "expected output and its quality, trade-offs.",
    ),
    Point(
        "2(c)",
        "Architecture and computational resources",
        "How software components build on each other, and the computational resources used to develop, train, "
        "test and validate the system.",
    ),
    Point(
        "2(d)",
        "Data",
        "Datasheets: training methodologies and data sets, their provenance, scope and main characteristics; how data "
        "was obtained and selected; labelling; cleaning.",
        ("Art. 10",),
    ),
    Point(
        "2(e)",
        "Human oversight",
        "Assessment of the human oversight measures needed, including technical measures to interpret outputs.",
        ("Art. 14", "Art. 13(3)(d)"),
    ),
    Point(
        "2(f)",
        "Pre-determined changes",
        "Pre-determined changes to the system and its performance, with the technical solutions that keep it in line.",
    ),
    Point(
        "2(g)",
        "Validation and testing",
        "Validation and testing procedures, data used, metrics for accuracy, robustness and other requirements, "
        "potentially discriminatory impacts; test logs and reports dated and signed by the responsible persons.",
        ("Art. 15",),
    ),
    Point("2(h)", "Cybersecurity", "Cybersecurity measures put in place.", ("Art. 15(5)",)),
    Point(
        "3",
        "Monitoring, functioning and control",
        "Capabilities and limitations, accuracy overall and for specific groups; foreseeable unintended outcomes and "
        "sources of risk; human oversight; specifications on input data.",
        ("Art. 13(3)(b)", "Art. 14"),
    ),
    Point(
        "4",
        "Appropriateness of the performance metrics",
        "Why the performance metrics are appropriate for this system.",
    ),
    Point("5", "Risk management system", "A detailed description of the risk management system.", ("Art. 9",)),
    Point("6", "Changes through the lifecycle", "Relevant changes the provider made through the system's lifecycle."),
    Point(
        "7",
        "Harmonised standards",
        "Harmonised standards applied in full or in part; where none, the solutions adopted to meet the requirements.",
        ("Art. 40",),
    ),
    Point("8", "EU declaration of conformity", "A copy of the EU declaration of conformity.", ("Art. 47",)),
    Point(
        "9",
        "Post-market monitoring",
        "The system to evaluate performance in the post-market phase, including the post-market monitoring plan.",
        ("Art. 72",),
    ),
)

POINT_IDS: tuple[str, ...] = tuple(point.id for point in POINTS)
